"""Removes batch predictions: a worker empties one that is DELETING, then an api deletes its record.

Keys of blobs contain the uid, so nothing here touches a later batch prediction of the same name. Whoever may have
stored a blob after the worker looked calls `clean`; so does the next attempt at its job, if it died.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from services.kit.blobs import Blobs, delete_prefix
from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.errors import EtagMismatch, NotFound, RecordNotFound, SightlineError
from services.kit.jobs import announce
from services.kit.leases import leased
from services.kit.log import Log, about
from services.kit.queue import Queue
from services.kit.records import Versioned
from services.kit.tasks import repeat
from services.predictor.batch import blobs as stored
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.domain import ADVANCE, BatchRecord, prefix_of
from services.predictor.batch.jobs import advance_job
from services.predictor.batch.outputs import NAMES
from services.predictor.batch.quotas import Quotas

TICK_SECONDS, PAUSE_SECONDS = 5.0, 0.2  # the most and the least between two passes

_log = Log(__name__)


async def empty(context: WorkerContext, name: str) -> None:
    """Removes what a batch prediction has in the store, under its lease: who lists or writes has stopped by then.

    Results that were delivered elsewhere are kept; what an unfinished attempt wrote there is not.
    """
    async with leased(context.table, name, context.holder, context.clock, context.settings.batch_lease) as guard:
        record = guard.record
        count = await delete_prefix(context.blobs, record.prefix)
        await discard_results(context.blobs, record)
        await guard.write(lambda now: now.without_blobs(context.clock.now()))
    _log.info("batch_prediction_emptied", blobs=count)


async def discard_results(blobs: Blobs, record: BatchRecord) -> None:
    """Removes the results that an attempt may have begun to write; none of one that has ended, whose are its caller's.

    The caller has its lease. After its end, another batch prediction may write to the same prefix.
    """
    if record.plan and record.end_time is None:
        for file_name in NAMES:
            await blobs.delete(record.output + file_name)


async def clean(context: WorkerContext, name: str, uid: str) -> None:
    """Removes what an attempt may have stored too late: all, if the batch prediction is gone, else its work.

    Nothing while results are still wanted, or if the uid is not known.
    """
    if not uid:
        return
    try:
        present = (await context.table.get(name)).value
    except RecordNotFound:
        present = None
    if present is None or present.uid != uid or present.is_deleting:
        await delete_prefix(context.blobs, prefix_of(name, uid))
    elif present.ended:
        await delete_prefix(context.blobs, stored.work_prefix(present))


@dataclass(frozen=True, slots=True)
class Remover:
    """Deletes the records of what is emptied, and what has been kept long enough. Any number of replicas may run it."""

    batches: Collection[BatchRecord]
    quotas: Quotas
    queue: Queue
    clock: Clock
    kept: timedelta | None  # after their end; None: until somebody deletes them

    async def run(self) -> None:
        """Removes until cancelled, once the view is synced, and soon after each change."""
        await self.batches.view.synced()
        await repeat(self.reconcile, self.batches.view.pauses(self.clock, PAUSE_SECONDS, TICK_SECONDS))

    async def reconcile(self) -> None:
        """One pass; errors are logged, and a later pass tries again."""
        now = self.clock.now()
        for found in self.batches.view.all():
            if not (found.value.emptied or self._has_expired(found.value, now)):
                continue
            with about(found.value.name):
                try:
                    await (self._forget(found) if found.value.emptied else self._expire(found))
                except (NotFound, EtagMismatch):
                    pass  # another replica was faster, or the view is behind
                except SightlineError as error:
                    _log.info("reconcile_postponed", problem=error.message)

    async def _forget(self, found: Versioned[BatchRecord]) -> None:
        """Its charges go onto the account first, under a key of its own: to repeat it, or to do it twice, is safe."""
        await self.quotas.keep_charges(found.value)
        await self.batches.delete(found.value.name, found.etag)
        _log.info("batch_prediction_deleted")

    async def _expire(self, found: Versioned[BatchRecord]) -> None:
        marked = await self.batches.change(found.value.name, lambda now: now.deleting(self.clock.now()), found.etag)
        await announce(self.queue, ADVANCE, advance_job(marked.value))
        _log.info("batch_prediction_expired")

    def _has_expired(self, record: BatchRecord, now: datetime) -> bool:
        return bool(self.kept and record.ended and record.end_time and now - record.end_time >= self.kept)
