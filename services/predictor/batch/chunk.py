"""Predicts one chunk of images; safe to repeat at any point."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta

from services.kit.blobs import to_uri
from services.kit.errors import (
    BlobNotFound,
    DatasetChanged,
    InvalidImageSize,
    RecordNotFound,
    SightlineError,
    Unavailable,
)
from services.kit.log import Log, about
from services.kit.tasks import alongside
from services.predictor.app import Output, Predictor
from services.predictor.batch import blobs as stored
from services.predictor.batch import metrics
from services.predictor.batch.blobs import WHOLE, Found, ImageResult, Row
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.domain import BatchRecord, Plan, Tally
from services.predictor.batch.doom import Abandoned, Doomed, doom, require_model
from services.predictor.batch.jobs import publish_due
from services.predictor.batch.metrics import Outcome
from services.predictor.batch.removal import clean
from services.predictor.domain import ImageQuery
from services.predictor.results import selected
from services.vision.image_detections import ImageDetections
from sightline.plurals import counted

_log = Log(__name__)


async def predict_chunk(context: WorkerContext, name: str, number: int, uid: str = "") -> None:
    """Predicts the chunk unless that is done, and publishes the job that writes the results after the last chunk.

    Stops within a heartbeat once the batch prediction is cancelled or deleted. What no chunk could survive, such as a
    deleted model, ends the batch prediction. An attempt that dies leaves a blob at most, which goes with the others, or
    is removed by the next attempt. `uid` says which batch prediction of that name is meant.
    """
    with about(name):
        try:
            record = (await context.table.get(name)).value
            uid = uid or record.uid
            if record.ended or record.is_deleting or record.uid != uid:
                raise Abandoned
            if number in record.missing:
                record = await _attempt(context, record, number)
        except (Abandoned, RecordNotFound):
            await clean(context, name, uid)
            return
        if record.is_to_finish:
            await publish_due(context.queue, record)


async def _attempt(context: WorkerContext, record: BatchRecord, number: int) -> BatchRecord:
    """The record with the chunk's results, or with the reason why there will be none; Abandoned."""
    try:
        try:
            return await _Attempt(context, record, number).run()
        except Unavailable:
            await require_model(context, record.bundle)  # its bundle is missing if it was deleted
            raise
    except Doomed as error:
        return await doom(context, record, error.reason)


class _Attempt:
    """One attempt at a chunk."""

    def __init__(self, context: WorkerContext, record: BatchRecord, number: int) -> None:
        self._context = context
        self._record = record
        self._number = number
        self._results: dict[int, ImageResult] = {}  # by place in the chunk
        self._began: float | None = None  # once the model is loaded, which costs nothing

    async def run(self) -> BatchRecord:
        """The record with the chunk's results. Abandoned, Doomed, or Unavailable."""
        context, plan = self._context, _wanted(self._record, self._record)
        try:
            rows = await stored.get_rows(context.blobs, plan.prefix, self._number)
        except BlobNotFound:
            await self._report(lambda record: record)  # Abandoned if it was removed at the end
            raise
        async with alongside(heartbeat=self._beat()), context.predictor() as predictor:
            await self._load(predictor)
            self._began = context.clock.monotonic()
            await self._predict_all(predictor, rows)
        results = [self._results[place] for place in range(len(rows))]
        digest = await stored.put_results(context.blobs, self._record, self._number, results)
        seconds, tally = self._seconds, self._tally
        cost, now = self._spent, context.clock.now()
        record = await self._report(lambda record: record.predicted(self._number, digest, tally, cost, now))
        context.telemetry.add(metrics.IMAGES, tally.done, outcome=Outcome.DONE)
        context.telemetry.add(metrics.IMAGES, tally.failed, outcome=Outcome.FAILED)
        context.telemetry.observe(metrics.CHUNK_SECONDS, seconds)
        return record

    @property
    def _tally(self) -> Tally:
        failed = sum(bool(result.reason) for result in self._results.values())
        return Tally(len(self._results) - failed, failed)

    @property
    def _seconds(self) -> float:
        return 0.0 if self._began is None else self._context.clock.monotonic() - self._began

    @property
    def _spent(self) -> timedelta:
        """On the reference device."""
        return timedelta(seconds=self._seconds * self._context.settings.device_factor)

    async def _report(self, move: Callable[[BatchRecord], BatchRecord]) -> BatchRecord:
        def decide(now: BatchRecord) -> BatchRecord:
            _wanted(now, self._record)
            return move(now)

        return (await self._context.table.change(self._record.name, decide)).value

    async def _beat(self) -> None:
        """Reports progress; raises Abandoned or Doomed once the chunk is not to be done any more."""
        while True:
            await asyncio.sleep(self._context.settings.batch_heartbeat_seconds)
            try:
                tally, spent, now = self._tally, self._spent, self._context.clock.now()
                record = await self._report(lambda record, t=tally, s=spent, n=now: record.moved(self._number, t, n, s))
                if record.is_to_finish:  # the allowance is used up
                    await publish_due(self._context.queue, record)
                    raise Abandoned
            except Unavailable:
                continue  # the results may still be reported at the end
            await require_model(self._context, self._record.bundle)

    async def _load(self, predictor: Predictor) -> None:
        await require_model(self._context, self._record.bundle)
        try:
            await predictor.load(self._record.bundle)
        except SightlineError as error:
            if error.retry:
                raise
            raise Doomed(error) from error

    async def _predict_all(self, predictor: Predictor, rows: list[Row]) -> None:
        """Fills the results, with as many images in memory as the settings allow."""
        places = iter(enumerate(rows))

        async def work(places: Iterator[tuple[int, Row]]) -> None:
            for place, row in places:
                self._results[place] = await self._predict(predictor, row)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(self._context.settings.batch_images_in_flight, len(rows))):
                    group.create_task(work(places), name=f"predict images {number}")
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _predict(self, predictor: Predictor, row: Row) -> ImageResult:
        """The image's result, or why it has none; Doomed or Unavailable for what concerns others too."""
        file = row.file_name
        uri = to_uri(self._context.blobs.bucket, row.key) if row.offset == WHOLE else ""
        self._context.telemetry.add(metrics.IN_FLIGHT, 1)
        try:
            output = await self._output(predictor, await self._read(row), file)
        except SightlineError as error:
            if error.retry:
                raise
            return ImageResult(row.image_id, file, uri, reason=error.reason, message=error.message)
        finally:
            self._context.telemetry.add(metrics.IN_FLIGHT, -1)
        found = found_in(output, self._record.query)
        return ImageResult(row.image_id, file, uri, output.info.width, output.info.height, found)

    async def _output(self, predictor: Predictor, data: bytes, file: str) -> Output:
        """The output; an image in whose forward pass the network failed is tried again, alone."""
        try:
            return await predictor.predict(self._record.bundle, data, file)
        except SightlineError:
            raise
        except Exception as error:  # noqa: BLE001 - it may be another image's fault
            _log.warning("prediction_failed", file=file, problem=f"{type(error).__name__}: {error}")
        try:
            return await predictor.predict(self._record.bundle, data, file, alone=True)
        except SightlineError:
            raise
        except Exception as error:
            raise SightlineError(message=f"{file}: the model fails on it ({type(error).__name__}).") from error

    async def _read(self, row: Row) -> bytes:
        limit, blobs = self._context.settings.max_batch_image_bytes, self._context.blobs
        if row.size_bytes > limit or not row.size_bytes:
            raise _unsuitable(row.file_name, row.size_bytes, limit)
        if row.offset != WHOLE:
            return await self._read_packed(row)
        try:
            data = await blobs.get(row.key, 0, limit + 1)  # it may have been replaced since it was listed
        except BlobNotFound:
            raise BlobNotFound(name=to_uri(blobs.bucket, row.key)) from None
        if not 0 < len(data) <= limit:
            raise _unsuitable(row.file_name, len(data), limit)
        return data

    async def _read_packed(self, row: Row) -> bytes:
        """An image of a dataset's snapshot; Doomed if that is gone or changed."""
        blobs, dataset = self._context.blobs, self._record.source.dataset
        changed = Doomed(DatasetChanged(dataset=dataset, file=to_uri(blobs.bucket, row.key)))
        try:
            data = await blobs.get(row.key, row.offset, row.size_bytes)
        except BlobNotFound:
            raise changed from None
        if hashlib.sha256(data).hexdigest() != row.sha256:
            raise changed
        return data


def _unsuitable(file: str, size_bytes: int, limit: int) -> InvalidImageSize:
    problem = f"is {counted(size_bytes, 'byte')}; 1 to {limit} are accepted (SIGHTLINE_MAX_BATCH_IMAGE_BYTES)"
    return InvalidImageSize(file=file, problem=problem)


def _wanted(record: BatchRecord, before: BatchRecord) -> Plan:
    """The plan; Abandoned unless the chunks of what began as `before` are still to be predicted."""
    if record.uid != before.uid or not record.is_predicting or record.plan is None:
        raise Abandoned
    return record.plan


def found_in(output: Output, query: ImageQuery) -> tuple[Found, ...]:
    """The results that the query asks for, most confident first, with boxes in fractions of pixels."""
    labels, scores, chosen = selected(output.card, output.raw, query)
    boxes: list[list[float]] = []
    if isinstance(output.raw, ImageDetections):
        boxes = output.raw.boxes[chosen].astype(float).round(2).tolist()
    return tuple(
        Found(int(labels[index]), round(float(scores[index]), 6), _box(boxes[place]) if boxes else None)
        for place, index in enumerate(chosen)
    )


def _box(box: list[float]) -> tuple[float, float, float, float]:
    left, top, width, height = box
    return left, top, width, height
