"""Publishes jobs again for due work without a live lease, so that losing a job or the whole queue loses nothing."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from services.kit.clock import Clock
from services.kit.consume import QUEUED
from services.kit.log import Log
from services.kit.queue import Queue
from services.kit.tasks import repeat
from services.kit.telemetry import Telemetry
from services.kit.views import View
from services.predictor.batch import metrics
from services.predictor.batch.domain import ADVANCE, PREDICT, BatchRecord
from services.predictor.batch.jobs import publish_advance
from services.predictor.batch.states import State
from services.predictor.settings import PredictorSettings

PATIENCE = 10  # multiple of `stall_seconds` that chunks may wait behind those of others

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Finds batch predictions with due work and no live lease; safe to run in several replicas at once."""

    view: View[BatchRecord]
    queue: Queue
    clock: Clock
    telemetry: Telemetry
    settings: PredictorSettings

    async def run(self) -> None:
        """Reconciles until cancelled, once the view is synced."""
        await self.view.synced()
        await repeat(self.reconcile, partial(self.clock.sleep, self.settings.batch_reconcile_seconds))

    async def reconcile(self) -> int:
        """One pass: sets the gauges, and publishes a job for each stalled batch prediction; returns how many."""
        now, count = self.clock.now(), 0
        depths = {kind: await self.queue.depth(kind) for kind in (ADVANCE, PREDICT)}
        found = self.view.all()
        self._measure([one.value for one in found], depths, now)
        for one in found:
            record, stalls = one.value, self._stalls(one.value, now)
            is_queued = bool(depths[PREDICT]) and record.is_predicting and bool(record.missing)
            if stalls < 1 or (is_queued and stalls < PATIENCE):
                continue
            await publish_advance(self.queue, record, f"{record.uid}:{one.revision}:{int(stalls)}")
            _log.info("job_republished", name=record.name, state=record.state)
            count += 1
        return count

    def _stalls(self, record: BatchRecord, now: datetime) -> float:
        """How long one with due work and no live lease has been stalled, in multiples of `stall_seconds`."""
        if record.ended or record.emptied or record.lease.is_live(now):
            return 0
        stalls = (now - record.update_time).total_seconds() / self.settings.batch_stall_seconds
        return max(stalls, 1) if record.lease.holder else stalls  # the lease expired, so its holder died

    def _measure(self, records: list[BatchRecord], depths: dict[str, int], now: datetime) -> None:
        states = Counter(record.state for record in records)
        for state in State:
            self.telemetry.set(metrics.BATCHES, states[state], state=state)
        for kind, depth in depths.items():
            self.telemetry.set(QUEUED, depth, kind=kind)
        stalls = [(now - record.update_time).total_seconds() for record in records if not record.ended]
        self.telemetry.set(metrics.STALLED, max(stalls, default=0.0))
