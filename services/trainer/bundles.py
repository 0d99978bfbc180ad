"""Bundles in the store and on a worker's disk, checked against the digest in their model's record. No torch."""

import shutil
from pathlib import Path

from services.kit.blobs import Blobs
from services.kit.errors import BundleUnusable
from services.kit.log import Log
from services.trainer.domain import Served
from services.vision.card import CARD_FILE, DIGESTS_FILE, ModelCard
from services.vision.sealing import BundleCorrupt, verified_card, verify

_log = Log(__name__)


async def read_card(blobs: Blobs, model: str, served: Served) -> ModelCard:
    """The card of the bundle that a model serves; BlobNotFound, BundleUnusable."""
    card = await blobs.get(f"{served.bundle_key}{CARD_FILE}")
    digests = await blobs.get(f"{served.bundle_key}{DIGESTS_FILE}")
    try:
        return verified_card(card, digests, served.bundle_digest)
    except BundleCorrupt as fault:
        raise BundleUnusable(name=model, version=served.version, problem=fault) from fault


def check(directory: Path, model: str, version: str, digest: str) -> None:
    """BundleUnusable, and the folder is removed, unless its files are those of the record."""
    if not digest:
        _log.warning("bundle_without_digest", name=model, version=version)
    try:
        verify(directory, digest)
    except BundleCorrupt as fault:
        shutil.rmtree(directory, ignore_errors=True)  # so that the next attempt fetches it again
        raise BundleUnusable(name=model, version=version, problem=fault) from fault
