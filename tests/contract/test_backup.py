"""Backups on a real nats-server: complete while everything changes, and restored whole or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from pydantic import SecretStr

from services.infra.backup import BackupUnusable, restore, save
from services.infra.files import FolderBlobs
from services.infra.jetstream_records import JetStreamRecords
from services.infra.s3 import S3Blobs, s3_client
from services.kit.blobs import Blobs
from services.kit.settings import Settings
from tests.support.s3 import S3Server

NAMES = ("models/m.1", "models/m.1/trials/t000", "holds/pets", "accounts/trainer", "projects/acme/datasets/x-y_z.")


class Suite:
    """Records and blobs of one installation."""

    def __init__(self, connection: Client, name: str, folder: Path) -> None:
        self.records = JetStreamRecords(connection, f"records_{name}")
        self.blobs: Blobs = FolderBlobs(folder / name)

    async def put(self, name: str, uid: str) -> None:
        """A resource as the services write it: its blob, then its record."""
        await self.blobs.put(f"{name}/{uid}/data", f"the bytes of {uid}".encode())
        await self.records.create(name, json.dumps({"uid": uid}).encode())

    async def remove(self, name: str) -> None:
        """As the services remove it: the record says so, its blobs go, then the record."""
        found = await self.records.get(name)
        uid = json.loads(found.value)["uid"]
        revision = await self.records.update(
            name, json.dumps({"uid": uid, "state": "DELETING"}).encode(), found.revision
        )
        await self.blobs.delete(f"{name}/{uid}/data")
        await self.records.delete(name, revision)

    async def everything(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        keys = [blob.key async for blob in self.blobs.list("")]
        return await self.records.all(), {key: await self.blobs.get(key) for key in keys}


@pytest.fixture
async def suite(own_connection: Client, tmp_path: Path) -> Suite:
    made = Suite(own_connection, "first", tmp_path)
    for number, name in enumerate(NAMES):
        await made.put(name, f"u{number}")
    return made


@pytest.fixture
def other(own_connection: Client, tmp_path: Path) -> Suite:
    """An empty one."""
    return Suite(own_connection, "second", tmp_path)


async def test_a_backup_is_restored_byte_for_byte(suite: Suite, other: Suite, tmp_path: Path) -> None:
    await suite.remove("models/m.1/trials/t000")  # leaves a tombstone, which is no record
    before = await suite.everything()
    summary = await save(suite.records, suite.blobs, tmp_path / "backup")
    assert (summary.records, summary.blobs, summary.unsettled) == (4, 4, 0)
    await restore(other.records, other.blobs, tmp_path / "backup")
    assert await other.everything() == before
    await restore(other.records, other.blobs, tmp_path / "backup")  # repeating it changes nothing
    assert await other.everything() == before


async def test_what_has_revisions_of_other_records_is_restored_before_them(
    suite: Suite, other: Suite, tmp_path: Path
) -> None:
    await save(suite.records, suite.blobs, tmp_path / "backup")
    await restore(other.records, other.blobs, tmp_path / "backup")
    revisions = {name: (await other.records.get(name)).revision for name in NAMES}
    assert max(revisions["holds/pets"], revisions["accounts/trainer"]) < min(
        revision for name, revision in revisions.items() if name not in ("holds/pets", "accounts/trainer")
    )
    assert revisions["models/m.1"] < revisions["models/m.1/trials/t000"]


async def test_a_backup_while_everything_changes_has_every_blob_of_its_records(
    suite: Suite, other: Suite, tmp_path: Path
) -> None:
    async def churn(number: int) -> None:
        for turn in range(10_000):
            name = f"datasets/d{number}-{turn % 3}"
            await suite.put(name, f"u{turn}")
            await asyncio.sleep(0.002)
            await suite.remove(name)

    churning = [asyncio.create_task(churn(number)) for number in range(4)]
    await asyncio.sleep(0.1)
    await save(suite.records, suite.blobs, tmp_path / "backup")
    for task in churning:
        task.cancel()
    await asyncio.gather(*churning, return_exceptions=True)
    await restore(other.records, other.blobs, tmp_path / "backup")
    records, blobs = await other.everything()
    assert set(NAMES) <= set(records)
    settled = {name: json.loads(value) for name, value in records.items() if "state" not in json.loads(value)}
    assert [name for name, value in settled.items() if f"{name}/{value['uid']}/data" not in blobs] == []


def blobs_of(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "blobs").rglob("*") if path.is_file())


def rewritten(file: str, before: bytes, after: bytes) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = (folder / file).read_bytes()
        assert before in data
        (folder / file).write_bytes(data.replace(before, after))

    return change


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed blob": (
        lambda folder: blobs_of(folder)[0].write_bytes(b"the bytes of uX"),
        "is not the file that was written",
    ),
    "a missing blob": (lambda folder: blobs_of(folder)[0].unlink(), "no complete backup"),
    "a changed record": (rewritten("records.jsonl", b"u1", b"u9"), "records.jsonl is not the file that was written"),
    "a missing record": (rewritten("records.jsonl", b'{"key":"models/m.1"', b'{"key":"models/n"'), "is not the file"),
    "a changed list": (rewritten("blobs.jsonl", b"holds", b"folds"), "blobs.jsonl is not the file that was written"),
    "another version": (rewritten("backup.json", b'"version": 1', b'"version": 2'), "this version reads 1"),
    "no summary": (lambda folder: (folder / "backup.json").unlink(), "no complete backup"),
    "a summary that is none": (lambda folder: (folder / "backup.json").write_bytes(b"[" * 100_000), "is no backup"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_of_a_backup_that_was_changed_nothing_is_restored(
    fault: str, suite: Suite, other: Suite, tmp_path: Path
) -> None:
    await save(suite.records, suite.blobs, tmp_path / "backup")
    spoil, says = FAULTS[fault]
    await asyncio.to_thread(spoil, tmp_path / "backup")
    with pytest.raises(BackupUnusable, match=says):
        await restore(other.records, other.blobs, tmp_path / "backup")
    assert await other.everything() == ({}, {})


async def test_a_suite_with_other_records_and_a_folder_that_is_in_use_are_left_alone(
    suite: Suite, other: Suite, tmp_path: Path
) -> None:
    await save(suite.records, suite.blobs, tmp_path / "backup")
    with pytest.raises(BackupUnusable, match="is not empty"):
        await save(suite.records, suite.blobs, tmp_path / "backup")
    await other.put("datasets/theirs", "u")
    before = await other.everything()
    with pytest.raises(BackupUnusable, match="datasets/theirs; restore into an empty one"):
        await restore(other.records, other.blobs, tmp_path / "backup")
    assert await other.everything() == before


async def test_a_restore_that_broke_off_is_repeated(suite: Suite, other: Suite, tmp_path: Path) -> None:
    await save(suite.records, suite.blobs, tmp_path / "backup")
    for name in ("holds/pets", "models/m.1"):
        await other.records.create(name, (await suite.records.get(name)).value)
    await restore(other.records, other.blobs, tmp_path / "backup")
    assert await other.everything() == await suite.everything()


@pytest.fixture
async def bucket(s3_server: S3Server) -> S3Blobs:
    settings = Settings(
        s3_endpoint=s3_server.endpoint,
        s3_access_key=SecretStr(s3_server.access_key),
        s3_secret_key=SecretStr(s3_server.secret_key),
        s3_secure=False,
    )
    blobs = S3Blobs(s3_client(settings), "backup")
    await blobs.ensure_bucket()
    return blobs


async def test_a_backup_of_a_folder_is_restored_into_s3(
    suite: Suite, other: Suite, bucket: S3Blobs, tmp_path: Path
) -> None:
    await save(suite.records, suite.blobs, tmp_path / "backup")
    other.blobs = bucket
    await restore(other.records, other.blobs, tmp_path / "backup")
    assert await other.everything() == await suite.everything()
