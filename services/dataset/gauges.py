"""The api's gauges over all datasets: how many are in each state, and how long the oldest has been waiting."""

from collections import Counter
from dataclasses import dataclass

from services.dataset import metrics
from services.dataset.domain import ADVANCE, CHECK, DatasetRecord, State
from services.kit.clock import Clock
from services.kit.consume import QUEUED
from services.kit.queue import Queue
from services.kit.tasks import repeat_aside
from services.kit.telemetry import Telemetry
from services.kit.views import View

EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Gauges:
    """Sets the gauges from the view periodically: scrapes run in another thread and must not read the view."""

    view: View[DatasetRecord]
    queue: Queue
    clock: Clock
    telemetry: Telemetry

    async def run(self) -> None:
        """Updates the gauges until cancelled; during an outage they keep their last values."""
        await self.view.synced()
        await repeat_aside(self._update_all, self.clock, EVERY_SECONDS)

    async def _update_all(self) -> None:
        self.update()
        for kind in (ADVANCE, CHECK):
            self.telemetry.set(QUEUED, await self.queue.depth(kind), kind=kind)

    def update(self) -> None:
        """Sets the gauges of the datasets from the view."""
        now, records = self.clock.now(), [found.value for found in self.view.all()]
        states = Counter(record.state for record in records)
        for state in State:
            self.telemetry.set(metrics.DATASETS, states[state], state=state)
        validating = [record for record in records if record.state is State.VALIDATING]
        ages = [(now - record.create_time).total_seconds() for record in validating]
        stalls = [(now - record.update_time).total_seconds() for record in validating]
        self.telemetry.set(metrics.OLDEST, max(ages, default=0.0))
        self.telemetry.set(metrics.STALLED, max(stalls, default=0.0))
