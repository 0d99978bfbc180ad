"""Bundles that were changed in the store: checked against their model's record, and the installation's signature."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from services.kit.errors import BundleUnusable
from services.kit.memory import MemoryBlobs
from services.predictor.bundles import BundleSource
from services.predictor.domain import Bundle
from services.vision import bundle as bundles
from services.vision.card import read_card, write_card
from services.vision.signing import Signer, SigningKeyUnusable, Verifier
from sightline.client import signing_keys
from tests.unit.predictor.support import info, put_bundle

PREFIX = "models/m/v1/"


async def forward(call):
    return call()


def source(blobs: MemoryBlobs, folder: Path, verifier: Verifier | None = None) -> BundleSource:
    return BundleSource(blobs, folder / "bundles", bundles.load, ThreadPoolExecutor(1), forward, verifier)


@pytest.fixture
async def blobs(tmp_path: Path) -> MemoryBlobs:
    stored = MemoryBlobs()
    await put_bundle(stored, tmp_path / "made", info())
    return stored


@pytest.fixture
def bundle(blobs: MemoryBlobs, tmp_path: Path) -> Bundle:
    digest = bundles.seal(tmp_path / "made")
    return replace(info().bundle(), digest=digest)


async def swap_labels(blobs: MemoryBlobs, folder: Path) -> None:
    """Two labels of the card change places, and `digests.json` agrees."""
    card = read_card((folder / "made" / "card.json").read_bytes())
    first, second, *rest = card.categories
    swapped = (replace(first, name=second.name), replace(second, name=first.name), *rest)
    (folder / "made" / "card.json").write_bytes(write_card(replace(card, categories=swapped)))
    bundles.seal(folder / "made")
    for name in ("card.json", "digests.json"):
        await blobs.put_file(PREFIX + name, folder / "made" / name)


async def test_labels_swapped_in_the_card_are_refused_by_the_digest_of_the_record(blobs, bundle, tmp_path):
    loaded = await source(blobs, tmp_path).load(bundle)
    assert [category.name for category in loaded.runner.card.categories] == ["cat", "dog", "owl"]
    await swap_labels(blobs, tmp_path)
    with pytest.raises(BundleUnusable, match=r"models/m: bundle v1 .*digests\.json .*record says sha256:"):
        await source(blobs, tmp_path).load(bundle)
    assert not list((tmp_path / "bundles").iterdir())


async def test_a_bundle_without_a_digest_in_its_record_is_loaded_with_a_warning(blobs, bundle, tmp_path, caplog):
    await source(blobs, tmp_path).load(replace(bundle, digest=""))
    assert "bundle_without_digest" in caplog.text


async def test_with_a_public_key_only_bundles_that_its_private_key_signed_are_loaded(blobs, bundle, tmp_path):
    private, public = signing_keys.make()
    stranger, _ = signing_keys.make()
    signer, other = Signer.of(private), Signer.of(stranger)
    assert signer
    assert other
    checking = source(blobs, tmp_path, Verifier.of(public.encode()))
    await checking.load(replace(bundle, signature=signer.sign("models/m", bundle.digest)))
    for signature in (
        "",
        "!",
        other.sign("models/m", bundle.digest),
        signer.sign("models/other", bundle.digest),
        signer.sign("models/m", "sha256:other"),
    ):
        with pytest.raises(BundleUnusable, match="SIGHTLINE_BUNDLE_KEY"):
            await checking.load(replace(bundle, signature=signature))
    unsigned = replace(bundle, digest="", signature=signer.sign("models/m", ""))
    with pytest.raises(BundleUnusable, match="not signed"):
        await checking.load(unsigned)


def test_an_unusable_key_is_refused_with_its_setting_and_not_quoted():
    private, public = signing_keys.make()
    assert Signer.of("") is None
    for text in ("secret", public):
        with pytest.raises(SigningKeyUnusable, match="SIGHTLINE_SIGNING_KEY") as caught:
            Signer.of(text)
        assert text not in str(caught.value)
    with pytest.raises(SigningKeyUnusable, match="SIGHTLINE_BUNDLE_KEY"):
        Verifier.of(private.encode())
