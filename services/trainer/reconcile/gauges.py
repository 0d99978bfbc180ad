"""The trainer api's gauges: what runs, what waits and for how long, and what is left of the budgets."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.kit.clock import Clock
from services.kit.consume import QUEUED
from services.kit.names import parent
from services.kit.queue import Queue
from services.kit.tasks import repeat_aside
from services.kit.telemetry import Telemetry
from services.trainer import metrics
from services.trainer.domain import ModelState
from services.trainer.ledger import ZERO, total
from services.trainer.reconcile import jobs
from services.trainer.store import Store
from services.trainer.work import Work, WorkState

EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Gauges:
    """Sets the gauges from the views periodically, as scrapes run in another thread and must not touch views."""

    store: Store
    queue: Queue
    clock: Clock
    telemetry: Telemetry

    async def keep_going(self) -> None:
        """Sets the gauges until cancelled; during an outage they keep their last values."""
        await self.store.synced()
        await repeat_aside(self._update, self.clock, EVERY_SECONDS)

    async def _update(self) -> None:
        self.count()
        self.telemetry.set(QUEUED, await self.queue.depth(jobs.KIND), kind=jobs.KIND)

    def count(self) -> None:
        """One pass over all models, trials, evaluations, estimates and exports."""
        now = self.clock.now()
        trials = [found.value for found in self.store.trials.view.all()]
        evaluations = [found.value for found in self.store.evaluations.view.all()]
        self._count_work("trial", [trial.work for trial in trials], now)
        self._count_work("evaluation", [evaluation.work for evaluation in evaluations], now)
        self._count_work("estimate", [found.value.work for found in self.store.estimates.view.all()], now)
        self._count_work("export", [found.value.work for found in self.store.exports.view.all()], now)
        charged = defaultdict[str, timedelta](timedelta)
        for record in (*trials, *(evaluation for evaluation in evaluations if evaluation.is_final)):
            charged[parent(record.name)] += record.work.charged
        self._count_models(charged)

    def _count_work(self, kind: str, works: list[Work], now: datetime) -> None:
        due = [work for work in works if work.is_due(now)]  # also those RUNNING whose worker is lost
        states = Counter(WorkState.QUEUED if work.is_due(now) else work.state for work in works)
        for state in WorkState:
            self.telemetry.set(metrics.WORK, states[state], kind=kind, state=state)
        waits = [(now - work.due_time).total_seconds() for work in due]
        self.telemetry.set(metrics.OLDEST_QUEUED, max(waits, default=0.0), kind=kind)

    def _count_models(self, charged: dict[str, timedelta]) -> None:
        models = [found.value for found in self.store.models.view.all()]
        states = Counter(model.state for model in models)
        for state in ModelState:
            self.telemetry.set(metrics.MODELS, states[state], state=state)
        going = [model for model in models if not model.ended]
        left = total(max(ZERO, model.budget - charged.get(model.name, ZERO)) for model in going)
        overruns = [charged.get(model.name, ZERO) - model.budget for model in models]
        self.telemetry.set(metrics.BUDGET, total(model.budget for model in going).total_seconds())
        self.telemetry.set(metrics.BUDGET_LEFT, left.total_seconds())
        self.telemetry.set(metrics.BUDGET_OVERRUN, max(ZERO, ZERO, *overruns).total_seconds())
