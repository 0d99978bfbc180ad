"""One chunk of images: read from the store, checked, packed, and reported; safe to repeat at any point."""

import asyncio
import hashlib
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from services.dataset import metrics, store
from services.dataset.check import Packed, Rules, check_image
from services.dataset.coco import Row
from services.dataset.domain import Chunks, DatasetRecord, Plan, State
from services.dataset.findings import FindingLog
from services.dataset.settings import DatasetSettings
from services.dataset.work import Tools, publish_advance
from services.kit.blobs import delete_prefix, to_uri
from services.kit.errors import BlobNotFound, RecordNotFound
from services.vision.snapshot import PackWriter, Shard, write_index


class Abandoned(Exception):
    """The dataset is no longer being validated; what this worker does is of no use."""


async def check_chunk(tools: Tools, settings: DatasetSettings, dataset: str, number: int) -> None:
    """Checks the chunk unless that is done, marks it, and announces the last one.

    Returns without a trace if the dataset is gone or no longer VALIDATING. An attempt that dies leaves blobs that
    the next one replaces or that deletion removes.
    """
    record = None
    try:
        record = (await tools.table.get(dataset)).value
        plan = _planned(record, record.uid)
        if number < plan.chunk_count and not record.chunks.has(number):
            started = tools.clock.monotonic()
            result = await _check(tools, settings, record, plan, number)
            await store.put(tools.blobs, store.result_key(plan.prefix, number), result)
            record = await _report(tools, record, lambda chunks: chunks.finished(number, result.image_count))
            tools.telemetry.add(metrics.IMAGES, result.refused_images, outcome="refused")
            tools.telemetry.add(metrics.IMAGES, result.image_count - result.refused_images, outcome="accepted")
            tools.telemetry.observe(metrics.CHUNK_SECONDS, tools.clock.monotonic() - started)
    except (Abandoned, RecordNotFound):
        if record:
            await _clean(tools, record)
        return
    if record.is_checked:
        await publish_advance(tools.queue, record, f"{record.uid}:checked")


async def _clean(tools: Tools, record: DatasetRecord) -> None:
    """Removes what this attempt may have stored behind the back of the dataset's deletion."""
    try:
        now = (await tools.table.get(record.name)).value
        if now.uid == record.uid and now.state is not State.DELETING:
            return
    except RecordNotFound:
        pass
    await delete_prefix(tools.blobs, f"{record.prefix}/")


def _planned(record: DatasetRecord, uid: str) -> Plan:
    if record.uid != uid or record.state is not State.VALIDATING or record.plan is None:
        raise Abandoned
    return record.plan


async def _report(tools: Tools, record: DatasetRecord, move: Callable[[Chunks], Chunks]) -> DatasetRecord:
    def decide(now: DatasetRecord) -> DatasetRecord:
        if _planned(now, record.uid) != record.plan:
            raise Abandoned
        return now.checked(move(now.chunks), tools.clock.now())

    return (await tools.table.change(record.name, decide)).value


async def _check(
    tools: Tools, settings: DatasetSettings, record: DatasetRecord, plan: Plan, number: int
) -> store.ChunkResult:
    rows = await store.get_rows(tools.blobs, plan.prefix, number)
    names = [name for _, name in (await store.get_plan(tools.blobs, plan.prefix)).categories]
    rules = Rules(record.annotation_kind, record.box_convention, names, settings.max_regions)
    log, reported = FindingLog(settings.findings_per_code), tools.clock.monotonic()
    images, refused, byte_count = 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="sightline-chunk-", dir=settings.scratch_directory) as folder:
        packs = _Packs(tools, record, number, Path(folder))
        async for checked in _checked(tools, settings, rows, rules):
            log.take(checked.log.kept, checked.log.more)
            images += 1
            refused += checked.packed is None
            if checked.packed:
                byte_count += checked.size_bytes
                await packs.add(checked.packed)
            if tools.clock.monotonic() - reported >= settings.progress_seconds:
                reported, done = tools.clock.monotonic(), images
                await _report(tools, record, lambda chunks, done=done: chunks.moved(number, done))
        shards = await packs.close()
    return store.ChunkResult(shards, log.kept, log.more, images, refused, log.refused_annotations, byte_count)


class _Packs:
    """The shards of one chunk, written one after another in a folder and stored as each is full."""

    def __init__(self, tools: Tools, record: DatasetRecord, number: int, folder: Path) -> None:
        self._tools = tools
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
        await self._tools.compute(lambda: writer.add(packed.entry, packed.image.data, packed.image.extension))
        if writer.full:
            await self._store()

    async def close(self) -> list[Shard]:
        """Every shard of the chunk, all stored."""
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


async def _checked(tools: Tools, settings: DatasetSettings, rows: list[Row], rules: Rules) -> AsyncIterator[_Checked]:
    """The rows in their order, several at work at once; memory holds `images_in_flight` images at most."""
    waiting: deque[asyncio.Task[_Checked]] = deque()
    try:
        for row in rows:
            task = asyncio.create_task(_check_row(tools, settings, row, rules), name=f"check {row.key}")
            waiting.append(task)
            if len(waiting) >= settings.images_in_flight:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _check_row(tools: Tools, settings: DatasetSettings, row: Row, rules: Rules) -> _Checked:
    log = FindingLog(settings.findings_per_code)
    try:
        data = await tools.blobs.get(row.key, 0, settings.max_image_bytes + 1)
    except BlobNotFound:
        log.add("imageMissing", row.file, row.id, uri=to_uri(tools.blobs.bucket, row.key))
        return _Checked(None, log, 0)
    if len(data) > settings.max_image_bytes:
        log.add("imageTooLarge", row.file, row.id, limit=settings.max_image_bytes)
        return _Checked(None, log, 0)
    packed = await tools.compute(lambda: check_image(data, row, rules, log))
    return _Checked(packed, log, len(data))
