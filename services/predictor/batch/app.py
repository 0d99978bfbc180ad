"""What callers do with batch predictions. Depends on ports only."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime

from services.kit import tracing
from services.kit.blobs import Blobs, read_pieces
from services.kit.caller_fields import check_caller_fields, check_request_id
from services.kit.callers import acting_project
from services.kit.clock import Clock
from services.kit.collection import Collection, create_once
from services.kit.errors import (
    BatchPredictionAlreadyExists,
    BatchPredictionNotFound,
    DatasetNotFound,
    DatasetNotReady,
    EtagMismatch,
    InvalidRequest,
    NotFound,
    ResultFileNotFound,
    WrongState,
)
from services.kit.jobs import announce
from services.kit.log import Log
from services.kit.names import check_id, check_model, new_uid, own, parse
from services.kit.paging import page_of
from services.kit.queue import Queue
from services.kit.records import Versioned
from services.predictor.batch.datasets import Datasets
from services.predictor.batch.domain import ADVANCE, COLLECTION, BatchRecord, Output, Source, prefix_of
from services.predictor.batch.holds import Holding
from services.predictor.batch.jobs import advance_job
from services.predictor.batch.plan import count_images, nothing_below
from services.predictor.batch.quotas import Quotas
from services.predictor.batch.states import ENDED
from services.predictor.domain import Bundle, ImageQuery
from services.predictor.lookup import ModelLookup
from services.predictor.settings import PredictorSettings

_log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A caller's request to predict many images."""

    id: str
    model_name: str
    input_uri_prefix: str = ""
    dataset_name: str = ""
    output_uri_prefix: str = ""
    score_threshold: float | None = None
    max_results: int | None = None
    use_suggested_thresholds: bool = False
    display_name: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class BatchPredictions:
    """The use cases; errors tell the caller what to do."""

    batches: Collection[BatchRecord]
    blobs: Blobs
    queue: Queue
    lookup: ModelLookup
    datasets: Datasets
    holding: Holding
    quotas: Quotas
    clock: Clock
    settings: PredictorSettings

    async def create(self, new: NewBatch, *, validate_only: bool) -> Versioned[BatchRecord]:
        """Stores a batch prediction with the bundle that the model serves now, holds its dataset, and announces it."""
        check_id(new.id, "batch_prediction_id")
        check_caller_fields("batch_prediction", new.display_name, {})
        check_request_id(new.request_id)
        check_model(new.model_name, "batch_prediction.model_name")
        sources = bool(new.input_uri_prefix) + bool(new.dataset_name)
        fewest = 0 if validate_only else 1  # a caller may ask before it uploads the images
        if not fewest <= sources <= 1:
            problem = "set it or dataset_name, and not both: they say which images to predict."
            raise InvalidRequest(field="batch_prediction.input_uri_prefix", problem=problem)
        options = new.score_threshold, new.max_results, new.use_suggested_thresholds
        ImageQuery(new.model_name, None, "", *options).check("batch_prediction.")
        name, uid = own(COLLECTION, new.id), new_uid()
        made = await create_once(
            self.batches,
            name,
            new.request_id,
            BatchPredictionAlreadyExists(name=name),
            lambda: self._checked(name, uid, new),
            create=self.quotas.create,
            validate_only=validate_only,
        )
        if validate_only:
            return made
        is_new = made.value.uid == uid
        if is_new and self._is_taken(made.value.output, made):  # by one that was created at the same time
            await self._withdraw(made)
            raise _taken(new.output_uri_prefix)
        await self._hold(made, is_new=is_new)
        if made.value.generation == 1 and made.value.plan is None:
            await announce(self.queue, ADVANCE, advance_job(made.value), f"{made.value.uid}:created")
            _log.info("batch_prediction_created", name=name, model=new.model_name)
        return made

    async def _hold(self, made: Versioned[BatchRecord], *, is_new: bool) -> None:
        """Holds its dataset; if that has been deleted meanwhile, a new batch prediction goes too, with that error.

        After any other error, or if the process dies, the keeper of the holds takes it.
        """
        try:
            await self.holding.hold(made.value)
        except (DatasetNotFound, DatasetNotReady):
            if is_new:
                await self._withdraw(made)  # if a worker has it, it will be FAILED
                raise

    async def _withdraw(self, made: Versioned[BatchRecord]) -> None:
        """Removes a new batch prediction, unless a worker has it already."""
        with suppress(NotFound, EtagMismatch):
            await self.batches.delete(made.value.name, made.etag)

    async def _checked(self, name: str, uid: str, new: NewBatch) -> BatchRecord:
        model = await self.lookup.find(new.model_name)
        bundle, now = model.bundle(), self.clock.now()
        source, image_count = await self._source(new)
        output = await self._output(new.output_uri_prefix) if new.output_uri_prefix else prefix_of(name, uid)
        draft = _draft(new, name, uid, bundle, source, output, now)
        return await self.quotas.check(
            replace(draft, expected=image_count * model.prediction_cost, traceparent=tracing.current().traceparent)
        )

    async def _source(self, new: NewBatch) -> tuple[Source, int]:
        """Where the images are, and how many as far as that matters: all are counted only if compute is limited.

        Nowhere, and none, if the caller has not said it yet.
        """
        if new.dataset_name:
            parse(new.dataset_name, "datasets", field="batch_prediction.dataset_name")
            dataset = await self.datasets.get(new.dataset_name)
            source = Source(dataset=dataset.name, version=dataset.version, manifest_key=dataset.manifest_key)
            return source, dataset.image_count
        if not new.input_uri_prefix:
            return Source(), 0
        field = "batch_prediction.input_uri_prefix"
        prefix = self.settings.reach.folder(new.input_uri_prefix, self.blobs.bucket, acting_project(), field)
        enough = self.settings.max_batch_images if self.quotas.limits_compute(acting_project()) else 1
        count = await count_images(self.blobs, prefix, enough)
        if not count:
            raise nothing_below(new.input_uri_prefix)
        return Source(prefix=prefix), count

    async def _output(self, uri: str) -> str:
        """The prefix of the result files; nothing is below it, and no other batch prediction writes there."""
        field = "batch_prediction.output_uri_prefix"
        prefix = self.settings.outputs.folder(uri, self.blobs.bucket, acting_project(), field, to_write=True)
        if self._is_taken(prefix):
            raise _taken(uri)
        async for _ in self.blobs.list(prefix):
            raise _taken(uri)
        return prefix

    def _is_taken(self, prefix: str, own: Versioned[BatchRecord] | None = None) -> bool:
        """Whether another batch prediction may write there; given a new one, another that was created before it.

        Of two that are created at once, the later one sees the other, because the view has its own record.
        """
        writers = [one for one in self.batches.view.all() if one.value.output == prefix and not one.value.ended]
        if own is None:
            return bool(writers)
        others = (one for one in writers if one.value.name != own.value.name)
        return any(one.revision < own.revision or one.value.lease.epoch for one in others)

    async def get(self, name: str) -> Versioned[BatchRecord]:
        """The current batch prediction; NotFound."""
        parse(name, COLLECTION)
        return await self.batches.get(name)

    def page(self, page_size: int, page_token: str) -> tuple[list[Versioned[BatchRecord]], str]:
        """A page ordered by name, and the next page's token."""
        return page_of(self.batches.view.all(own(COLLECTION, "")), own(COLLECTION), page_size, page_token)

    async def cancel(self, name: str) -> Versioned[BatchRecord]:
        """Asks for its end, unless it has been asked for; NotFound, WrongState once it has ended otherwise."""
        parse(name, COLLECTION)
        changed = await self.batches.change(name, lambda record: record.cancelled(self.clock.now()))
        if not changed.value.ended:
            await announce(self.queue, ADVANCE, advance_job(changed.value))
            _log.info("batch_prediction_cancelled", name=name)
        return changed

    async def delete(self, name: str, etag: str, *, force: bool = False) -> None:
        """Marks it DELETING and announces its removal.

        If it already is DELETING, whatever the etag, which the first attempt of a call changes: announces it again.
        NotFound, EtagMismatch; WrongState before its end, unless `force`.
        """
        parse(name, COLLECTION)

        def decide(record: BatchRecord) -> BatchRecord:
            if not (record.ended or record.is_deleting or force):
                allowed = f"{', '.join(sorted(ENDED))} (cancel it first, or use force)"
                raise WrongState(name=name, state=record.state, verb="deleting", allowed=allowed)
            return record.deleting(self.clock.now())

        marked = await self.get(name)
        if not marked.value.is_deleting:
            marked = await self.batches.change(name, decide, etag)
        await announce(self.queue, ADVANCE, advance_job(marked.value))
        _log.info("batch_prediction_deletion_requested", name=name, force=force)

    async def watch(self, name: str) -> AsyncIterator[Versioned[BatchRecord]]:
        """The batch prediction now and after each change, until it has ended; NotFound once it is deleted."""
        first = await self.get(name)
        async for found in self.batches.view.follow(name, first):
            if found.value.uid != first.value.uid:
                break
            yield found
            if found.value.ended:
                return
        raise BatchPredictionNotFound(name=name)

    async def read_file(self, name: str, file_name: str, offset: int) -> AsyncGenerator[bytes]:
        """A result file's content from the offset on; ResultFileNotFound."""
        if offset < 0:
            raise InvalidRequest(field="offset", problem=f"{offset} is negative")
        output = _output_of((await self.get(name)).value, file_name)
        async with aclosing(read_pieces(self.blobs, output.key, output.size_bytes, offset)) as pieces:
            async for piece in pieces:
                yield piece


def _taken(uri: str) -> InvalidRequest:
    problem = f"there is something below {uri} already; results never replace files: choose another prefix."
    return InvalidRequest(field="batch_prediction.output_uri_prefix", problem=problem)


def _output_of(record: BatchRecord, file_name: str) -> Output:
    for output in record.outputs:
        if output.file_name == file_name and not record.is_deleting:
            return output
    raise ResultFileNotFound(name=record.name, file_name=file_name)


def _draft(
    new: NewBatch, name: str, uid: str, bundle: Bundle, source: Source, output: str, now: datetime
) -> BatchRecord:
    return BatchRecord(
        name=name,
        uid=uid,
        bundle=bundle,
        source=source,
        output=output,
        create_time=now,
        update_time=now,
        score_threshold=new.score_threshold,
        max_results=new.max_results,
        use_suggested_thresholds=new.use_suggested_thresholds,
        display_name=new.display_name,
        request_id=new.request_id,
    )
