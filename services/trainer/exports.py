"""The use case of ExportModel: an archive that a worker makes once, and its bytes. Depends on ports only."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass

from services.kit.blobs import Blobs, read_pieces
from services.kit.clock import Clock
from services.kit.errors import (
    BlobNotFound,
    EtagMismatch,
    ExportNotFound,
    ExportTimedOut,
    ExportUnavailable,
    ModelNotFound,
    RecordExists,
    RemoteError,
    SightlineError,
    Unavailable,
)
from services.kit.log import Log
from services.kit.telemetry import Telemetry
from services.trainer import metrics
from services.trainer.bundles import read_card, require_served
from services.trainer.call_time import waiting_seconds
from services.trainer.export import ALLOWANCE, Archive, Export, drafted
from services.trainer.store import Store
from services.trainer.waiting import Waiting, Waits
from services.trainer.work import WorkState
from services.vision.exports.formats import ExportFormat, problem_with

LOOK_SECONDS = 5.0  # between two looks at work that does not change: less than the contract promises a message in

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Making:
    """How far an archive is, and why no worker makes it."""

    name: str
    fraction: float
    waiting: Waiting | None


class Exports:
    """Has archives made, and reads them."""

    def __init__(self, store: Store, blobs: Blobs, waits: Waits, clock: Clock, telemetry: Telemetry) -> None:
        self._store = store
        self._blobs = blobs
        self._waits = waits
        self._clock = clock
        self._telemetry = telemetry

    async def made(
        self, model: str, form: ExportFormat, remaining_seconds: float | None
    ) -> AsyncGenerator[Making | Export]:
        """How far the archive is, again and again, and then the export that has it.

        ModelNotFound, ModelNotReady, ExportUnavailable; what made the work fail; ExportTimedOut within the call's
        remaining time. A call that ends in any way leaves the work to others, and to its next attempt.
        """
        result, waited = metrics.ExportResult.CANCELLED, False
        try:
            draft = await self._checked(model, form)
            async with aclosing(self._followed(draft, remaining_seconds)) as steps:
                async for step in steps:
                    waited = waited or isinstance(step, Making)
                    yield step
            result = metrics.ExportResult.MADE if waited else metrics.ExportResult.KEPT
        except ExportTimedOut:
            result = metrics.ExportResult.TIMED_OUT
            raise
        except SightlineError:
            result = metrics.ExportResult.FAILED
            raise
        finally:
            self._telemetry.add(metrics.EXPORTS, 1, format=form.value, result=result)

    async def read(self, export: Export, archive: Archive, offset: int) -> AsyncGenerator[bytes]:
        """The archive's bytes from `offset`, in pieces; none beyond its end.

        Should the store have lost it, it is made again for the next call: Unavailable.
        """
        try:
            async with aclosing(read_pieces(self._blobs, archive.key, archive.size_bytes, offset)) as pieces:
                async for piece in pieces:
                    yield piece
        except BlobNotFound as error:
            await self._discard(export)
            problem = "its archive is no longer there; ask again, and it is made again"
            raise Unavailable(what=f"The export of {export.model}", problem=problem) from error

    async def _checked(self, name: str, form: ExportFormat) -> Export:
        """The record to create."""
        model = (await self._store.models.get(name)).value
        served = require_served(model)
        try:
            card = await read_card(self._blobs, model.name, served)
        except BlobNotFound:
            raise ModelNotFound(name=name) from None  # it is being deleted
        if problem := problem_with(card):
            raise ExportUnavailable(name=name, format=form.value, problem=problem)
        return drafted(model, served, form, self._clock.now())

    async def _followed(self, draft: Export, remaining_seconds: float | None) -> AsyncGenerator[Making | Export]:
        until, given = None, remaining_seconds or 0.0
        if remaining_seconds is not None:
            until = self._clock.monotonic() + waiting_seconds(given)
        await self._forget_failed(draft.name)
        while True:
            version = self._store.exports.view.version
            found = await self._found(draft)
            if found.work.ended:
                _raise_if_failed(found)
                yield found
                return
            making = await self._making(found)
            yield making
            left = LOOK_SECONDS if until is None else min(LOOK_SECONDS, until - self._clock.monotonic())
            if left <= 0:
                raise self._timed_out(found, making, given)
            await self._store.exports.view.changed(left, version)

    async def _forget_failed(self, name: str) -> None:
        """Another call tries again what failed before: another worker, or a repaired one, may succeed."""
        with suppress(ExportNotFound):
            present = await self._store.exports.get(name)
            if present.value.work.ended and present.value.archive is None:
                with suppress(EtagMismatch):
                    await self._store.exports.delete(name, present.etag)

    async def _found(self, draft: Export) -> Export:
        """The record; created if there is none, so that one that has vanished is made again."""
        with suppress(ExportNotFound):
            return (await self._store.exports.get(draft.name)).value
        model = (await self._store.models.get(draft.model)).value
        if model.uid != draft.model_uid:
            raise ModelNotFound(name=draft.model)  # deleted, and there is another one of its name
        with suppress(RecordExists):  # another call was faster; the next look finds it
            await self._store.exports.create(draft)
            _log.info("export_planned", name=draft.name, version=draft.model_version)
        return draft

    async def _making(self, export: Export) -> Making:
        return Making(export.name, export.work.progress, await self._waits.reason_for([export.work]))

    async def _discard(self, export: Export) -> None:
        with suppress(ExportNotFound):
            await self._store.exports.delete(export.name)
        _log.warning("export_lost", name=export.name)

    def _timed_out(self, export: Export, making: Making, seconds: float) -> ExportTimedOut:
        problem = "a worker was still making the archive; call again and it is streamed, or allow more time"
        if export.work.state is WorkState.QUEUED:
            workers = making.waiting.busy_workers if making.waiting else 0
            problem = "all workers are busy" if workers else "no worker has taken it"
            problem += "; start a trainer worker, or call again later"
        return ExportTimedOut(name=export.model, format=export.format.value, seconds=f"{seconds:.3g}", problem=problem)


def _raise_if_failed(export: Export) -> None:
    """Raises what made it fail, if it has no archive."""
    if export.archive is not None:
        return
    if export.work.error is not None:
        raise RemoteError.restore(export.work.error)
    problem = f"it took longer than {ALLOWANCE.total_seconds() / 60:g} minutes; try on a faster worker"
    raise ExportUnavailable(name=export.model, format=export.format.value, problem=problem)
