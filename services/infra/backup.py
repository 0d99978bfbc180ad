"""Copies a suite's records and blobs into a folder, and back: `python -m services.infra.backup save | restore DIR`.

    backup.json     what the copy is of, and the digests of the two lists; it is written last
    records.jsonl   one record on each line
    blobs.jsonl     the key, the size and the digest of each blob
    blobs/ab/abc…   the bytes, by their digest

A blob is written before the record that names it, and removed only after that record has changed. So the records are
read once the blobs have been copied, and then the blobs that came meanwhile: a record that is the same afterwards names
no blob that is missing. This is repeated, a few times at most, while records change; one that still does is kept as it
was before the last blobs were copied, and one that was deleted is left out.
"""

import argparse
import asyncio
import logging
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from services.infra.jetstream import connected
from services.infra.jetstream_records import JetStreamRecords
from services.infra.nats_access import NatsAccess
from services.infra.store import open_blobs
from services.kit import codec
from services.kit.blobs import BlobInfo, Blobs, check_key
from services.kit.digests import file_digest
from services.kit.errors import BlobNotFound, RecordExists, SightlineError
from services.kit.records import check_record_key
from services.kit.settings import Settings, load
from services.kit.telemetry import MemoryTelemetry

T = TypeVar("T")
VERSION = 1
ROUNDS = 5
AT_ONCE = 8  # blobs
_DIGEST = re.compile(r"[0-9a-f]{64}")
FIRST = ("accounts", "holds")  # they have revisions of other records, which they must not seem to have seen


class BackupUnusable(Exception):
    """A folder is no backup, or not one that can be restored here; the message says why and what to do."""


class AllRecords(Protocol):
    """The records of a suite."""

    async def all(self) -> dict[str, bytes]:
        """The value of every record."""
        ...

    async def create(self, key: str, value: bytes) -> int:
        """The new revision; RecordExists."""
        ...


class Blob(msgspec.Struct, frozen=True):
    """A line of `blobs.jsonl`."""

    key: str
    size: int
    sha256: str


class Line(msgspec.Struct, frozen=True):
    """A line of `records.jsonl`."""

    key: str
    value: msgspec.Raw  # JSON


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`backup.json`."""

    version: int = VERSION
    time: datetime
    records: int
    records_sha256: str
    blobs: int
    size_bytes: int
    blobs_sha256: str
    unsettled: int = 0  # records that changed until the end


async def save(records: AllRecords, blobs: Blobs, folder: Path) -> Summary:
    """Copies everything into the folder, which must be empty or missing; BackupUnusable otherwise."""
    await asyncio.to_thread(_prepare, folder)
    copied: dict[str, Blob] = {}
    kept, changed = await _settled(records, lambda: _copy(blobs, folder, copied))
    listed = sorted(copied.values(), key=lambda blob: blob.key)
    summary = Summary(
        time=datetime.now(UTC),
        records=len(kept),
        records_sha256=_write(folder / "records.jsonl", (Line(k, msgspec.Raw(v)) for k, v in sorted(kept.items()))),
        blobs=len(listed),
        size_bytes=sum(blob.size for blob in listed),
        blobs_sha256=_write(folder / "blobs.jsonl", listed),
        unsettled=changed,
    )
    (folder / "backup.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    return summary


def _prepare(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise BackupUnusable(f"{folder} is not empty; name a new folder for each backup")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


async def _settled(records: AllRecords, copy: Callable[[], Awaitable[None]]) -> tuple[dict[str, bytes], int]:
    """The records to keep, and how many of them still changed while the last blobs were copied."""
    await copy()
    now = await records.all()
    for last in (*(False,) * (ROUNDS - 1), True):
        before = now
        await copy()
        now = await records.all()
        changed = sum(now[key] != value for key, value in before.items() if key in now)
        if last or not (changed or before.keys() - now.keys()):
            return {key: value for key, value in before.items() if key in now}, changed
    raise AssertionError("the last round returns")


async def restore(records: AllRecords, blobs: Blobs, folder: Path) -> Summary:
    """Writes everything into an empty suite, blobs first; nothing unless the whole backup is as it was written.

    It may be repeated after an interruption. BackupUnusable for a suite with other records.
    """
    summary, kept, listed = await asyncio.to_thread(_read, folder)
    present = await records.all()
    if other := [key for key, value in present.items() if kept.get(key) != value]:
        raise BackupUnusable(f"the suite has other records already, such as {other[0]}; restore into an empty one")
    await _each(listed, lambda blob: blobs.put_file(blob.key, _place(folder, blob.sha256)))
    for key in sorted(kept, key=_order):
        try:
            await records.create(key, kept[key])
        except RecordExists:
            if key not in present:
                raise
    return summary


def _order(key: str) -> tuple[bool, int, str]:
    """What has revisions of others first, then parents before their children."""
    parts = key.split("/")
    collection = parts[2] if parts[0] == "projects" else parts[0]
    return collection not in FIRST, len(parts), key


async def _copy(blobs: Blobs, folder: Path, copied: dict[str, Blob]) -> None:
    """Adds the blobs that were not copied yet, or have another size; one that is deleted meanwhile is passed over."""
    found = [
        blob async for blob in blobs.list("") if blob.key not in copied or copied[blob.key].size != blob.size_bytes
    ]

    async def fetch(blob: BlobInfo) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            file = Path(scratch, "blob")
            try:
                await blobs.get_file(blob.key, file)
            except BlobNotFound:
                return
            copied[blob.key] = await asyncio.to_thread(_keep, folder, blob.key, file)

    await _each(found, fetch)


async def _each(items: Iterable[T], act: Callable[[T], Awaitable[None]]) -> None:
    """Acts on every item, on AT_ONCE of them at the same time."""
    rest = iter(items)

    async def work() -> None:
        for item in rest:
            await act(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


def _keep(folder: Path, key: str, file: Path) -> Blob:
    blob = Blob(key, file.stat().st_size, file_digest(file))
    place = _place(folder, blob.sha256)
    place.parent.mkdir(parents=True, exist_ok=True)
    file.replace(place)
    return blob


def _read(folder: Path) -> tuple[Summary, dict[str, bytes], list[Blob]]:
    """What the backup has; BackupUnusable unless every byte is as it was written."""
    try:
        summary = codec.parse((folder / "backup.json").read_bytes(), Summary)
        if summary.version != VERSION:
            raise BackupUnusable(f"{folder} has version {summary.version} of backups; this version reads {VERSION}")
        kept = {
            check_record_key(line.key): bytes(line.value)
            for line in _lines(folder / "records.jsonl", summary.records_sha256, Line)
        }
        listed = list(_lines(folder / "blobs.jsonl", summary.blobs_sha256, Blob))
        for blob in listed:
            check_key(blob.key)
            if not _DIGEST.fullmatch(blob.sha256):
                raise BackupUnusable(f"{folder} is no backup: {blob.sha256!r} is no digest")
            place = _place(folder, blob.sha256)
            if place.stat().st_size != blob.size or file_digest(place) != blob.sha256:
                raise BackupUnusable(f"{place} is not the file that was written, which is {blob.key} in the store")
    except OSError as error:
        raise BackupUnusable(f"{folder} is no complete backup: {error}") from None
    except ValueError as error:
        raise BackupUnusable(f"{folder} is no backup: {error}") from None
    return summary, kept, listed


def _lines(file: Path, digest: str, kind: type[T]) -> Iterator[T]:
    if file_digest(file) != digest:
        raise BackupUnusable(f"{file} is not the file that was written")
    with file.open("rb") as source:
        for line in source:
            yield codec.parse(line, kind)


def _write(file: Path, lines: Iterable[object]) -> str:
    """Writes a line of JSON for each; returns the digest of the file."""
    with file.open("wb") as target:
        for line in lines:
            target.write(msgspec.json.encode(line) + b"\n")
    return file_digest(file)


def _place(folder: Path, sha256: str) -> Path:
    return folder / "blobs" / sha256[:2] / sha256


def main() -> None:
    """Prints one JSON document, with `error` and exit status 1 if it failed."""
    parser = argparse.ArgumentParser(
        prog="python -m services.infra.backup", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("action", choices=("save", "restore"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    settings = load(Settings)
    logging.disable(logging.CRITICAL)  # problems are in the document
    try:
        summary = asyncio.run(_run(arguments.action, settings, arguments.folder))
    except (SightlineError, BackupUnusable, OSError) as error:
        sys.stdout.write(msgspec.json.encode({"error": str(error)}).decode() + "\n")
        raise SystemExit(1) from None
    sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")


async def _run(action: str, settings: Settings, folder: Path) -> Summary:
    blobs = await open_blobs(settings, MemoryTelemetry())
    try:
        async with connected(settings.nats_url, "sightline-backup", NatsAccess.of(settings)) as connection:
            records = JetStreamRecords(connection, replicas=settings.nats_replicas)
            return await (save if action == "save" else restore)(records, blobs, folder)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


if __name__ == "__main__":
    main()
