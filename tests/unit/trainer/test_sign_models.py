"""Models of before are signed if their bundles are what was trained, as far as anybody can tell."""

from __future__ import annotations

from dataclasses import replace

from services.kit.memory import MemoryBlobs, MemoryRecords
from services.kit.records import Table
from services.kit.telemetry import MemoryTelemetry
from services.trainer.domain import Model, ModelState, Served
from services.trainer.sign_models import sign_models
from services.vision.signatures import SignatureRule
from services.vision.signing import Signer, Verifier
from sightline.client import signing_keys
from tests.unit.trainer.support import model, performance, seal_of, sealed


class World:
    """Records and a store, and a pair of keys."""

    def __init__(self) -> None:
        private, public = signing_keys.make()
        signer = Signer.of(private)
        assert signer
        self.signer = signer
        self.verifier = Verifier(signing_keys.public_keys(public.encode()), SignatureRule.REQUIRE, MemoryTelemetry())
        self.records, self.blobs = MemoryRecords(), MemoryBlobs()
        self.table = Table(self.records, Model)

    async def add(self, name: str, state: ModelState = ModelState.SUCCEEDED, **changes: str) -> None:
        key = f"{name}/uid1/bundle/"
        for file, data in sealed().items():
            await self.blobs.put(key + file, data)
        served = Served(
            trial=f"{name}/trials/t000",
            version="v",
            bundle_key=key,
            bundle_digest=seal_of(sealed()),
            performance=performance(),
            performance_key="p",
        )
        await self.table.create(name, model(name, state=state, served=replace(served, **changes)))

    async def served(self, name: str) -> Served:
        found = (await self.table.get(name)).value.served
        assert found
        return found


async def test_models_of_before_are_signed_once_in_every_project() -> None:
    at, names = World(), ["models/a", "projects/acme/models/a"]
    for name in names:
        await at.add(name)
    await at.add("models/of-another-key", bundle_signature="b3RoZXI=")
    await at.table.create("models/without-a-bundle", model("models/without-a-bundle"))
    outcome = await sign_models(at.records, at.blobs, at.signer)
    assert sorted(outcome.signed) == ["models/a", "models/of-another-key", "projects/acme/models/a"]
    assert (outcome.valid, outcome.problems) == ([], {})
    for name in outcome.signed:
        served = await at.served(name)
        at.verifier.check(name, "v", served.bundle_digest, served.bundle_signature)
    again = await sign_models(at.records, at.blobs, at.signer)
    assert (again.signed, sorted(again.valid)) == ([], sorted(outcome.signed))


async def test_what_is_not_as_its_record_says_or_not_done_is_not_signed() -> None:
    at = World()
    await at.add("models/changed")
    await at.blobs.put("models/changed/uid1/bundle/weights.safetensors", b"other")
    await at.add("models/missing")
    await at.blobs.delete("models/missing/uid1/bundle/card.json")
    await at.add("models/old", bundle_digest="")
    await at.add("models/training", ModelState.TRAINING)
    outcome = await sign_models(at.records, at.blobs, at.signer)
    assert outcome.signed == []
    said = {
        "models/changed": "weights.safetensors differs",
        "models/missing": "is missing",
        "models/old": "train it again",
        "models/training": "is being trained",
    }
    assert outcome.problems.keys() == said.keys()
    assert all(text in outcome.problems[name] for name, text in said.items())
    assert [(await at.served(name)).bundle_signature for name in said] == [""] * 4
