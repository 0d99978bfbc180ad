"""What the dataset api says of all datasets: how many are in each state, and for how long the oldest has waited."""

from collections import Counter
from dataclasses import dataclass

from services.dataset import metrics
from services.dataset.domain import ADVANCE, CHECK, DatasetRecord, State
from services.kit.clock import Clock
from services.kit.consume import QUEUED
from services.kit.errors import Unavailable
from services.kit.queue import Queue
from services.kit.telemetry import Telemetry
from services.kit.views import View

EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Census:
    """Gauges, set from the view now and then: a scrape, which comes in a thread of its own, touches no view."""

    view: View[DatasetRecord]
    queue: Queue
    clock: Clock
    telemetry: Telemetry

    async def keep_going(self) -> None:
        """Counts for ever; through an outage the gauges keep what was last known."""
        await self.view.synced()
        while True:
            self.count()
            await self._measure_queue()
            await self.clock.sleep(EVERY_SECONDS)

    def count(self) -> None:
        """One look at all datasets."""
        now, records = self.clock.now(), [found.value for found in self.view.all()]
        states = Counter(record.state for record in records)
        for state in State:
            self.telemetry.set(metrics.DATASETS, states[state], state=state)
        under_way = [record for record in records if record.state is State.VALIDATING]
        ages = [(now - record.create_time).total_seconds() for record in under_way]
        stalls = [(now - record.update_time).total_seconds() for record in under_way]
        self.telemetry.set(metrics.OLDEST, max(ages, default=0.0))
        self.telemetry.set(metrics.STALLED, max(stalls, default=0.0))

    async def _measure_queue(self) -> None:
        try:
            for kind in (ADVANCE, CHECK):
                self.telemetry.set(QUEUED, await self.queue.depth(kind), kind=kind)
        except Unavailable:
            return
