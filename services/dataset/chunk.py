"""Reads, checks, packs and reports one chunk of images; safe to repeat at any point."""

import asyncio
import hashlib
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from services.dataset import metrics, store
from services.dataset.check import Packed, Rules, check_image, tally_boxes
from services.dataset.context import WorkerContext
from services.dataset.convention import Tally
from services.dataset.domain import Chunks, DatasetRecord, Plan, State
from services.dataset.findings import FindingLog
from services.dataset.jobs import publish_advance
from services.dataset.located import Located
from services.dataset.metrics import Outcome
from services.dataset.rows import Row
from services.dataset.settings import DatasetSettings
from services.kit.blobs import delete_prefix, to_uri
from services.kit.errors import BlobNotFound, InvalidImage, RecordNotFound
from services.vision.snapshot import PackWriter, Shard, write_index


class Abandoned(Exception):
    """The dataset is no longer being validated, so this work is pointless."""


async def check_chunk(context: WorkerContext, settings: DatasetSettings, dataset: str, number: int) -> None:
    """Checks the chunk unless that is done, marks it as done, and publishes the next job after the last chunk.

    Leaves nothing behind if the dataset is gone or no longer VALIDATING. An attempt that dies leaves blobs that the
    next one replaces or that deletion removes.
    """
    record = None
    try:
        record = (await context.table.get(dataset)).value
        plan = _planned(record, record.uid)
        if number < plan.chunk_count and not record.chunks.has(number):
            started = context.clock.monotonic()
            result = await _check(context, settings, record, plan, number)
            await store.put(context.blobs, store.result_key(plan.prefix, number), result)
            record = await _report(context, record, lambda chunks: chunks.finished(number, result.image_count))
            accepted = result.image_count - result.refused_images
            context.telemetry.add(metrics.IMAGES, accepted, outcome=Outcome.ACCEPTED)
            context.telemetry.add(metrics.IMAGES, result.refused_images, outcome=Outcome.REFUSED)
            context.telemetry.observe(metrics.CHUNK_SECONDS, context.clock.monotonic() - started)
    except (Abandoned, RecordNotFound):
        if record:
            await _clean(context, record)
        return
    if record.is_checked:
        await publish_advance(context.queue, record, f"{record.uid}:{record.generation}:checked")


async def _clean(context: WorkerContext, record: DatasetRecord) -> None:
    """Removes what this attempt may have stored after the dataset's blobs were deleted."""
    try:
        now = (await context.table.get(record.name)).value
        if now.uid == record.uid and now.state is not State.DELETING:
            return
    except RecordNotFound:
        pass
    await delete_prefix(context.blobs, f"{record.prefix}/")


def _planned(record: DatasetRecord, uid: str) -> Plan:
    if record.uid != uid or record.state is not State.VALIDATING or record.plan is None:
        raise Abandoned
    return record.plan


async def _report(context: WorkerContext, record: DatasetRecord, move: Callable[[Chunks], Chunks]) -> DatasetRecord:
    def decide(now: DatasetRecord) -> DatasetRecord:
        if _planned(now, record.uid) != record.plan:
            raise Abandoned
        return now.checked(move(now.chunks), context.clock.now())

    return (await context.table.change(record.name, decide)).value


async def _check(
    context: WorkerContext, settings: DatasetSettings, record: DatasetRecord, plan: Plan, number: int
) -> store.ChunkResult:
    rows = await store.get_rows(context.blobs, plan.prefix, number)
    names = [name for _, name in (await store.get_plan(context.blobs, plan.prefix)).categories]
    rules = Rules(record.annotation_kind, record.box_convention, names, settings.max_regions)
    log, reported = FindingLog(settings.findings_per_code), context.clock.monotonic()
    images, refused, byte_count, tally = 0, 0, 0, Tally()
    with tempfile.TemporaryDirectory(prefix="sightline-chunk-", dir=settings.scratch_directory) as folder:
        packs = _Packs(context, record, number, Path(folder))
        located = Located(context.blobs, record.annotation_file_uris)
        async for checked in _checked(context, settings, record.name, rows, rules, located):
            log.take(checked.log.kept, checked.log.more)
            images += 1
            if checked.tally:
                tally.take(checked.tally)
            refused += checked.packed is None
            if checked.packed:
                byte_count += checked.size_bytes
                await packs.add(checked.packed)
            if context.clock.monotonic() - reported >= settings.progress_seconds:
                reported, done = context.clock.monotonic(), images
                await _report(context, record, lambda chunks, done=done: chunks.moved(number, done))
        shards = await packs.close()
    return store.ChunkResult(shards, log.kept, log.more, images, refused, log.refused_annotations, byte_count, tally)


class _Packs:
    """Writes the shards of one chunk to a folder, one at a time, and stores each one when it is full."""

    def __init__(self, context: WorkerContext, record: DatasetRecord, number: int, folder: Path) -> None:
        self._tools = context
        self._record = record
        self._number = number
        self._path = folder / "pack.tar"
        self._file: BinaryIO | None = None
        self._writer: PackWriter | None = None
        self._shards: list[Shard] = []

    async def add(self, packed: Packed) -> None:
        """Appends one image."""
        if self._writer is None:
            self._file = await self._tools.compute(lambda: self._path.open("wb"))
            self._writer = PackWriter(self._file)
        writer = self._writer
        await self._tools.compute(
            lambda: writer.add(packed.entry, packed.image.data, packed.image.extension, packed.image.fingerprint)
        )
        if writer.full:
            await self._store()

    async def close(self) -> list[Shard]:
        """Stores the last shard; returns all shards of the chunk."""
        await self._store()
        return self._shards

    async def _store(self) -> None:
        if self._writer is None or self._file is None:
            return
        index = self._writer.close()
        self._file.close()
        self._writer = self._file = None
        encoded = write_index(index)
        key = store.pack_key(self._record, self._number, index.sha256, "tar")
        index_key = store.pack_key(self._record, self._number, hashlib.sha256(encoded).hexdigest(), "json")
        await self._tools.blobs.put_file(key, self._path)
        await self._tools.blobs.put(index_key, encoded)
        self._shards.append(
            Shard(
                key=key,
                index_key=index_key,
                sha256=index.sha256,
                size_bytes=index.size_bytes,
                record_count=len(index.records),
            )
        )


@dataclass(frozen=True, slots=True)
class _Checked:
    packed: Packed | None
    log: FindingLog
    size_bytes: int
    tally: Tally | None = None


async def _checked(
    context: WorkerContext, settings: DatasetSettings, dataset: str, rows: list[Row], rules: Rules, located: Located
) -> AsyncIterator[_Checked]:
    """The results in the order of the rows, several checked at once; at most `images_in_flight` images in memory."""
    waiting: deque[asyncio.Task[_Checked]] = deque()
    try:
        for row in rows:
            checking = _check_row(context, settings, dataset, row, rules, located)
            task = asyncio.create_task(checking, name=f"check {row.key}")
            waiting.append(task)
            if len(waiting) >= settings.images_in_flight:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _fetch(context: WorkerContext, settings: DatasetSettings, row: Row, located: Located) -> bytes:
    """The image's bytes, one more than allowed at most; BlobNotFound if no key is meant by its name."""
    try:
        return await context.blobs.get(row.key, 0, settings.max_image_bytes + 1)
    except BlobNotFound:
        meant = (await located.find(row.key)).path
        if not meant:
            raise
        return await context.blobs.get(meant, 0, settings.max_image_bytes + 1)


async def _check_row(
    context: WorkerContext, settings: DatasetSettings, dataset: str, row: Row, rules: Rules, located: Located
) -> _Checked:
    log = FindingLog(settings.findings_per_code)
    try:
        data = await _fetch(context, settings, row, located)
    except BlobNotFound:
        near = (await located.find(row.key)).problem.partition("; ")[2]
        log.add(
            "imageMissing", row.file, row.id, uri=to_uri(context.blobs.bucket, row.key), similar=near and f" ({near})"
        )
        return _Checked(None, log, 0)
    if len(data) > settings.max_image_bytes:
        log.add("imageTooLarge", row.file, row.id, limit=settings.max_image_bytes)
        return _Checked(None, log, 0)
    try:
        inspected = await context.decoders.repack(data, row.file, dataset)
    except InvalidImage as error:
        inspected = error
    packed, tally = await context.compute(
        lambda: (check_image(inspected, row, rules, log), tally_boxes(inspected, row, rules))
    )
    return _Checked(packed, log, len(data), tally)
