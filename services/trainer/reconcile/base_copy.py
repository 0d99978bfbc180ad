"""Copies the base model's bundle under the model that continues it, so that the base model may be deleted."""

import asyncio
import tempfile
from pathlib import Path

from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound, ModelNotFound
from services.trainer.domain import Model
from services.vision.card import DIGESTS_FILE
from services.vision.sealing import names_of


async def copy_base(blobs: Blobs, model: Model) -> None:
    """Does nothing without a base model; ModelNotFound if that has been deleted. Safe to repeat."""
    if model.base is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name in (DIGESTS_FILE, *names_of(await blobs.get(model.base.bundle_key + DIGESTS_FILE))):
                path = Path(scratch) / name
                await blobs.get_file(model.base.bundle_key + name, path)
                await blobs.put_file(model.base_key + name, path)
                await asyncio.to_thread(path.unlink)
        except BlobNotFound:
            raise ModelNotFound(name=model.base.name) from None
