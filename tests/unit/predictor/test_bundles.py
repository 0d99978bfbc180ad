"""Bundles that were changed in the store: checked against their model's record, and the installation's signature."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from services.kit.errors import BundleUnusable
from services.kit.memory import MemoryBlobs
from services.kit.telemetry import MemoryTelemetry
from services.predictor.bundles import BundleSource
from services.predictor.domain import Bundle
from services.vision import bundle as bundles
from services.vision.card import read_card, write_card
from services.vision.signatures import BUNDLE_SIGNATURES, SignatureRule
from services.vision.signing import Signer, SigningKeyUnusable, Verifier
from sightline.client import signing_keys
from tests.unit.predictor.support import info, put_bundle

PREFIX = "models/m/v1/"


async def forward(call):
    return call()


def source(blobs: MemoryBlobs, folder: Path, verifier: Verifier | None = None) -> BundleSource:
    verifier = verifier or Verifier((), SignatureRule.REQUIRE, MemoryTelemetry())
    return BundleSource(blobs, folder / "bundles", bundles.load, ThreadPoolExecutor(1), forward, verifier)


class Keys:
    """The public keys of an installation, in a file."""

    def __init__(self, folder: Path, *public: str) -> None:
        self._file = folder / "bundle-key.pem"
        self._file.write_text("".join(public))
        self.telemetry = MemoryTelemetry()

    def verifier(self, rule: SignatureRule = SignatureRule.REQUIRE) -> Verifier:
        return Verifier.of(self._file, rule, self.telemetry)

    def count(self, result: str) -> float:
        return self.telemetry.value(BUNDLE_SIGNATURES, result=result)


def signer_of(private: str) -> Signer:
    signer = Signer.of(private)
    assert signer
    return signer


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
    signer, other, keys = signer_of(private), signer_of(stranger), Keys(tmp_path, public)
    checking = source(blobs, tmp_path, keys.verifier())
    await checking.load(replace(bundle, signature=signer.sign("models/m", bundle.digest)))
    for signature in (
        "!",
        other.sign("models/m", bundle.digest),
        signer.sign("models/other", bundle.digest),
        signer.sign("projects/acme/models/m", bundle.digest),
        signer.sign("models/m", "sha256:other"),
    ):
        with pytest.raises(BundleUnusable, match=r"models/m: bundle v1 .*signature.*SIGHTLINE_BUNDLE_KEY"):
            await checking.load(replace(bundle, signature=signature))
    for unsigned in (bundle, replace(bundle, digest="", signature=signer.sign("models/m", ""))):
        with pytest.raises(BundleUnusable, match="not signed, which SIGHTLINE_BUNDLE_SIGNATURES=require refuses"):
            await checking.load(unsigned)
    assert (keys.count("valid"), keys.count("unsigned"), keys.count("refused")) == (1, 0, 7)


async def test_a_bundle_that_was_changed_is_refused_although_its_record_has_the_signature(blobs, bundle, tmp_path):
    private, public = signing_keys.make()
    checking = source(blobs, tmp_path, Keys(tmp_path, public).verifier())
    signed = replace(bundle, signature=signer_of(private).sign("models/m", bundle.digest))
    await blobs.put(PREFIX + "weights.safetensors", b"others")
    with pytest.raises(BundleUnusable, match=r"weights\.safetensors differs"):
        await checking.load(signed)
    await swap_labels(blobs, tmp_path)
    with pytest.raises(BundleUnusable, match="record says"):
        await checking.load(signed)
    with pytest.raises(BundleUnusable, match="signature is not one"):  # whoever changes the record too has no key
        await checking.load(replace(signed, digest=bundles.seal(tmp_path / "made")))


async def test_after_a_change_of_keys_bundles_of_both_are_loaded_until_the_old_one_is_removed(blobs, bundle, tmp_path):
    (old, old_public), (new, new_public) = signing_keys.make(), signing_keys.make()
    both = source(blobs, tmp_path, Keys(tmp_path, old_public, "\n# since March\n", new_public).verifier())
    before, after = (replace(bundle, signature=signer_of(key).sign("models/m", bundle.digest)) for key in (old, new))
    await both.load(before)
    await both.load(after)
    only_new = source(blobs, tmp_path, Keys(tmp_path, new_public).verifier())
    await only_new.load(after)
    with pytest.raises(BundleUnusable, match="SIGHTLINE_BUNDLE_KEY"):
        await only_new.load(before)


async def test_unsigned_bundles_may_be_accepted_but_never_wrong_signatures(blobs, bundle, tmp_path, caplog):
    private, public = signing_keys.make()
    keys = Keys(tmp_path, public)
    accepting = source(blobs, tmp_path, keys.verifier(SignatureRule.ACCEPT))
    await accepting.load(bundle)
    assert "bundle_unsigned" in caplog.text
    assert keys.count("unsigned") == 1
    with pytest.raises(BundleUnusable, match="SIGHTLINE_BUNDLE_KEY"):
        await accepting.load(replace(bundle, signature=signer_of(private).sign("models/other", bundle.digest)))
    await source(blobs, tmp_path, keys.verifier(SignatureRule.OFF)).load(replace(bundle, signature="wrong"))


def test_an_unusable_key_is_refused_with_its_setting_and_not_quoted(tmp_path):
    private, public = signing_keys.make()
    assert Signer.of("") is None
    for text in ("secret", public):
        with pytest.raises(SigningKeyUnusable, match="SIGHTLINE_SIGNING_KEY") as caught:
            Signer.of(text)
        assert text not in str(caught.value)
    for wrong in ((private,), (public, private), ("nothing",), ()):
        with pytest.raises(SigningKeyUnusable, match=r"SIGHTLINE_BUNDLE_KEY: .*bundle-key\.pem: expected"):
            Keys(tmp_path, *wrong).verifier()
