"""Housekeeping of work: announces what is due, ends what is no longer needed, removes what nobody waits for."""

from services.kit.blobs import Blobs, delete_prefix
from services.kit.clock import Clock
from services.kit.errors import NotFound, SightlineError, Unavailable
from services.kit.log import Log, about
from services.kit.names import parent
from services.kit.queue import Queue
from services.kit.records import Versioned
from services.trainer.domain import Evaluation, Model, Trial, asked_to_stop
from services.trainer.estimate import Estimate
from services.trainer.export import Export
from services.trainer.reconcile import jobs
from services.trainer.reconcile.counts import Counts
from services.trainer.store import Store
from services.trainer.work import Work

ANNOUNCE_SECONDS = 10.0  # between two checks for lost jobs
SWEEP_SECONDS = 60.0  # between two searches for orphaned records

Found = Versioned[Trial] | Versioned[Evaluation]

_log = Log(__name__)


class Housekeeping:
    """Any number of replicas may run it; its memory only saves repetition."""

    def __init__(self, store: Store, blobs: Blobs, queue: Queue, clock: Clock, counts: Counts) -> None:
        self._store = store
        self._counts = counts
        self._blobs = blobs
        self._queue = queue
        self._clock = clock
        self._announced: dict[str, tuple[str, float]] = {}
        self._swept = float("-inf")

    async def reconcile(self) -> None:
        """One pass over all work and its records; errors are logged, and the next pass retries."""
        now, present = self._clock.now(), self._clock.monotonic()
        sweep = present >= self._swept + SWEEP_SECONDS
        self._swept = present if sweep else self._swept
        due: list[Trial | Evaluation | Estimate | Export] = []
        for found in (*self._store.trials.view.all(), *self._store.evaluations.view.all()):
            record = found.value
            if record.work.ended and not sweep:
                continue
            model = self._store.models.view.find(parent(record.name))
            if model is None or not _needs(model.value, record):
                await self._clear(found)
            elif record.work.is_due(now):
                due.append(record)
        for found in self._store.estimates.view.all():
            if not found.value.is_wanted(now):
                await self._forget(found)
            elif found.value.work.is_due(now):
                due.append(found.value)
        for found in self._store.exports.view.all():
            model = self._store.models.view.find(found.value.model)
            if model is None or not found.value.is_wanted(model.value, now):
                await self._drop(found)
            elif found.value.work.is_due(now):
                due.append(found.value)
        await self._announce_all(due)

    async def announce(self, name: str, work: Work) -> None:
        """Publishes a job for due work; in an outage of the queue, the next pass does."""
        if await jobs.announce(self._queue, name, work):
            self._announced[name] = jobs.dedup_key(name, work), self._clock.monotonic()

    async def _announce_all(self, due: list[Trial | Evaluation | Estimate | Export]) -> None:
        """Announces newly due work at once, and older work again if the queue has fewer jobs than there is due work.

        While all workers are busy, work may wait for hours: its job is still queued, and a second one would only make
        the queue look longer to autoscalers.
        """
        before, self._announced = self._announced, {}
        again: list[Trial | Evaluation | Estimate | Export] = []
        for record in due:
            said, moment = before.get(record.name, ("", 0.0))
            if said != jobs.dedup_key(record.name, record.work):
                await self.announce(record.name, record.work)
                continue
            self._announced[record.name] = said, moment
            if self._clock.monotonic() >= moment + ANNOUNCE_SECONDS:
                again.append(record)
        if not again:
            return
        lost = await self._are_jobs_lost(len(due))
        for record in again:
            self._announced[record.name] = self._announced[record.name][0], self._clock.monotonic()
            if lost:
                await self.announce(record.name, record.work)

    async def _are_jobs_lost(self, due: int) -> bool:
        try:
            return await self._queue.depth(jobs.KIND) < due
        except Unavailable:
            return False  # publishing would fail too

    async def _clear(self, found: Found) -> None:
        """Deletes what a deleted model left behind, and ends what a model no longer needs.

        Views may be out of step with each other, so the model's record decides.
        """
        record = found.value
        with about(record.name):
            try:
                model = await self._store.models.get(parent(record.name))
                if model.value.uid != record.model_uid:
                    await self._delete(found)
                elif not record.work.ended and not _needs(model.value, record):
                    await self._stop(record)
            except NotFound:
                await self._delete(found)
            except SightlineError as error:
                _log.info("housekeeping_postponed", problem=str(error))

    async def _forget(self, found: Versioned[Estimate]) -> None:
        """Deletes an estimate whose callers are gone, which ends its probe, unless a caller has just come."""
        with about(found.value.name):
            try:
                await self._store.estimates.delete(found.value.name, found.etag)
                _log.info("estimate_abandoned")
            except NotFound:
                pass  # its last caller has deleted it
            except SightlineError as error:
                _log.info("housekeeping_postponed", problem=str(error))

    async def _drop(self, found: Versioned[Export]) -> None:
        """Deletes an export and its archive, if its model's record says that nobody wants it."""
        export = found.value
        with about(export.name):
            try:
                try:
                    model = (await self._store.models.get(export.model)).value
                    wanted = export.is_wanted(model, self._clock.now())
                except NotFound:
                    wanted = False
                if not wanted:
                    await delete_prefix(self._blobs, export.blob_prefix)  # if it fails, the record is still there
                    await self._store.exports.delete(export.name, found.etag)
                    _log.info("export_removed")
            except NotFound:
                pass  # another replica has deleted it
            except SightlineError as error:
                _log.info("housekeeping_postponed", problem=str(error))

    async def _stop(self, record: Trial | Evaluation) -> None:
        now = self._clock.now()
        if isinstance(record, Trial):
            await self._store.trials.change(record.name, lambda trial: asked_to_stop(trial, now))
        else:
            await self._store.evaluations.change(record.name, lambda evaluation: asked_to_stop(evaluation, now))

    async def _delete(self, found: Found) -> None:
        """Deletes the blobs of a deleted model, then one of its records: as long as one is left, this is repeated."""
        record = found.value
        try:
            await delete_prefix(self._blobs, f"{parent(record.name)}/{record.model_uid}/")
            if isinstance(record, Trial):
                await self._counts.delete(self._store.trials, record.name, found.etag)
            else:
                await self._counts.delete(self._store.evaluations, record.name, found.etag)
            _log.info("orphan_deleted")
        except SightlineError as error:
            _log.info("housekeeping_postponed", problem=str(error))


def _needs(model: Model, record: Trial | Evaluation) -> bool:
    """Whether the work is still needed: by a running training, or by the caller who asked for an evaluation."""
    if model.uid != record.model_uid:
        return False
    if record.work.ended:
        return True  # there is nothing to end
    return not model.ended or (isinstance(record, Evaluation) and not record.is_final)
