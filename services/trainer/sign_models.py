"""Signs models that were trained before there was a key, or with another one."""

import asyncio
import dataclasses
import tempfile
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound
from services.kit.records import Record, Records, Synced, Table, decoded
from services.trainer.domain import Model, Served
from services.vision.card import DIGESTS_FILE
from services.vision.sealing import BundleCorrupt, names_of, verify
from services.vision.signing import Signer


@dataclass(slots=True)
class Outcome:
    """What became of the models that have a bundle."""

    signed: list[str] = field(default_factory=list[str])
    valid: list[str] = field(default_factory=list[str])  # signed with this key before
    problems: dict[str, str] = field(default_factory=dict[str, str])  # by model


async def sign_models(records: Records, blobs: Blobs, signer: Signer) -> Outcome:
    """Signs the bundle that each model serves. Whoever calls it trusts the records and the store as they are now.

    A bundle that is not what its record says is not signed, nor one whose record has no digest, nor that of a model
    in training, which its worker signs. Safe to repeat. Unavailable.
    """
    outcome = Outcome()
    for model in await _models(records):
        if model.served is None:
            continue
        signature = signer.sign(model.name, model.served.bundle_digest)  # Ed25519: the same for the same
        if model.served.bundle_signature == signature:
            outcome.valid.append(model.name)
        elif problem := await _problem(model, model.served, blobs):
            outcome.problems[model.name] = problem
        else:
            await _store(records, model, model.served, signature)
            outcome.signed.append(model.name)
    return outcome


async def _models(records: Records) -> list[Model]:
    found: list[Model] = []
    async with aclosing(records.watch("models")) as changes:  # pyright: ignore[reportArgumentType] - a generator
        async for change in changes:
            if isinstance(change, Synced):
                break
            if isinstance(change, Record):
                found.append(decoded(change, Model).value)
    return found


async def _problem(model: Model, served: Served, blobs: Blobs) -> str:
    """Why its bundle is not to be signed; empty if it is what the record says."""
    if not model.ended:
        return "it is being trained: its workers sign; repeat this when it has ended"
    if not served.bundle_digest:
        return "its record has no digest, so nobody can say what was trained: train it again"
    with tempfile.TemporaryDirectory(prefix="sightline-sign-") as scratch:
        try:
            folder = Path(scratch)
            await blobs.get_file(served.bundle_key + DIGESTS_FILE, folder / DIGESTS_FILE)
            for name in names_of((folder / DIGESTS_FILE).read_bytes()):
                await blobs.get_file(served.bundle_key + name, folder / name)
            await asyncio.to_thread(verify, folder, served.bundle_digest)
        except BlobNotFound as error:
            return f"a file of its bundle is missing: {error}"
        except BundleCorrupt as error:
            return str(error)
    return ""


async def _store(records: Records, model: Model, served: Served, signature: str) -> None:
    """Unless it serves another bundle by now."""
    signed = dataclasses.replace(served, bundle_signature=signature)
    await Table(records, Model).change(
        model.name, lambda now: replace(now, served=signed) if now.uid == model.uid and now.served == served else now
    )
