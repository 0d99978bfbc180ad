"""Publishes work again that is due and that nobody does, so that losing a job, or the whole queue, loses nothing."""

from dataclasses import dataclass
from datetime import datetime

from services.dataset import metrics
from services.dataset.domain import CHECK, DatasetRecord, State
from services.dataset.settings import DatasetSettings
from services.dataset.work import publish_advance
from services.kit.clock import Clock
from services.kit.errors import SightlineError
from services.kit.log import Log
from services.kit.queue import Queue
from services.kit.telemetry import Telemetry
from services.kit.views import View

PATIENCE = 10  # times `stall_seconds` that chunks may wait behind other datasets' chunks

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares what is due with who is at it; safe in several replicas at once."""

    view: View[DatasetRecord]
    queue: Queue
    clock: Clock
    telemetry: Telemetry
    settings: DatasetSettings

    async def keep_going(self, every_seconds: float) -> None:
        """Looks again and again, for ever, once all is known; an outage passes."""
        await self.view.synced()
        while True:
            try:
                await self.look()
            except SightlineError as error:
                _log.warning("reconcile_failed", problem=error.message)
            await self.clock.sleep(every_seconds)

    async def look(self) -> int:
        """Publishes a job for each dataset that stands still; returns how many."""
        now, count = self.clock.now(), 0
        waiting = await self.queue.depth(CHECK) > 0
        for found in self.view.all():
            record = found.value
            stalls = self._stalls(record, now)
            if stalls < 1 or (waiting and _is_checking(record) and stalls < PATIENCE):
                continue
            dedup = f"{record.uid}:{found.revision}:{int(stalls)}"
            await publish_advance(self.queue, record, dedup)
            self.telemetry.add(metrics.REPUBLISHED)
            _log.info("job_republished", dataset=record.name, state=record.state)
            count += 1
        return count

    def _stalls(self, record: DatasetRecord, now: datetime) -> float:
        """For how many times `stall_seconds` nothing has happened to a dataset that has work due and no holder."""
        if record.state not in (State.VALIDATING, State.DELETING) or record.lease.is_live(now):
            return 0
        stalls = (now - record.update_time).total_seconds() / self.settings.stall_seconds
        return max(stalls, 1) if record.lease.holder else stalls  # A lease that ran out: its holder died.


def _is_checking(record: DatasetRecord) -> bool:
    return record.state is State.VALIDATING and record.plan is not None and not record.is_checked
