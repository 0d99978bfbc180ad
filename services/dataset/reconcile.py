"""Publishes jobs again for due work without a live lease, so that losing a job or the whole queue loses nothing."""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from services.dataset import metrics
from services.dataset.domain import CHECK, DatasetRecord, State
from services.dataset.jobs import publish_advance
from services.dataset.settings import DatasetSettings
from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.errors import Conflict
from services.kit.holds import Holds, interrupted
from services.kit.log import Log
from services.kit.queue import Queue
from services.kit.tasks import repeat
from services.kit.telemetry import Telemetry

INTERRUPTED = timedelta(seconds=10)  # after which nobody is between two steps of a deletion
PATIENCE = 10  # multiple of `stall_seconds` that chunks may wait behind other datasets' chunks

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Finds datasets with due work and no live lease; safe to run in several replicas at once."""

    datasets: Collection[DatasetRecord]
    holds: Holds
    queue: Queue
    clock: Clock
    telemetry: Telemetry
    settings: DatasetSettings

    async def run(self, every_seconds: float) -> None:
        """Reconciles until cancelled, once the view is synced."""
        await self.datasets.view.synced()
        await self.holds.view.synced()
        await repeat(self.reconcile, partial(self.clock.sleep, every_seconds))

    async def reconcile(self) -> int:
        """One reconciliation pass: publishes a job for each stalled dataset; returns how many."""
        now, count = self.clock.now(), 0
        waiting = await self.queue.depth(CHECK) > 0
        for found in self.datasets.view.all():
            record = found.value
            stalls = self._stalls(record, now)
            if stalls < 1 or (waiting and _is_checking(record) and stalls < PATIENCE):
                continue
            dedup = f"{record.uid}:{found.revision}:{int(stalls)}"
            await publish_advance(self.queue, record, dedup)
            self.telemetry.add(metrics.REPUBLISHED)
            _log.info("job_republished", dataset=record.name, state=record.state)
            count += 1
        await self._end_interrupted(now)
        return count

    async def _end_interrupted(self, now: datetime) -> None:
        """Lets datasets be held again whose deletion was interrupted before it marked them: it did not happen."""
        for held in self.holds.view.all():
            found = self.datasets.view.find(held.value.dataset)
            closed = held.value.close_time
            if found is None or closed is None or now - closed < INTERRUPTED or not interrupted(held, found.revision):
                continue
            if found.value.state is not State.DELETING:
                with suppress(Conflict):  # it has a new revision already
                    await self.datasets.table.change(found.value.name, replace, found.etag)

    def _stalls(self, record: DatasetRecord, now: datetime) -> float:
        """How long a dataset with due work and no live lease has been stalled, in multiples of `stall_seconds`."""
        if record.state not in (State.VALIDATING, State.DELETING) or record.lease.is_live(now):
            return 0
        stalls = (now - record.update_time).total_seconds() / self.settings.stall_seconds
        return max(stalls, 1) if record.lease.holder else stalls  # the lease expired, so its holder died


def _is_checking(record: DatasetRecord) -> bool:
    return record.state is State.VALIDATING and record.plan is not None and not record.is_checked
