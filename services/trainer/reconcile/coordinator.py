"""Moves every model through its training: reads its records, decides the next step and writes it. Level-triggered.

It is stateless, so any number of replicas may run and any of them may die: models change by compare-and-set only, and
each decision is a change of the model's record that is refused if another replica has decided since. What follows from
it (a trial, the final evaluation) is created, never overwritten, by whichever replica is there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.errors import Conflict, NotFound, RecordExists, RecordTooLarge, SightlineError, Unavailable
from services.kit.log import Log, about
from services.kit.queue import Queue
from services.kit.tasks import repeat
from services.kit.telemetry import Telemetry
from services.kit.views import Changes
from services.trainer import metrics
from services.trainer.coverage import alike_warnings, check_categories
from services.trainer.datasets import (
    Dataset,
    Datasets,
    DatasetState,
    check_kind,
    check_training_dataset,
    check_usable,
)
from services.trainer.domain import (
    Model,
    ModelState,
    StopReason,
    Trial,
    asked_to_stop,
    training_cost,
    works_of,
)
from services.trainer.holding import Holding
from services.trainer.planner.needs import check_budget
from services.trainer.planner.plan import plan
from services.trainer.planner.selection import Selection
from services.trainer.planner.steps import Fail, Finish, StartEvaluation, StartTrial, Wait
from services.trainer.reconcile.base_copy import copy_base
from services.trainer.reconcile.counts import Counts
from services.trainer.reconcile.final_evaluation import measured
from services.trainer.reconcile.holds import HoldKeeper
from services.trainer.reconcile.housekeeping import Housekeeping
from services.trainer.reconcile.search import Search
from services.trainer.reconcile.workers import Workers
from services.trainer.store import Store

TICK_SECONDS = 1.0

_log = Log(__name__)


class Coordinator:
    """Reconciles models, trials and evaluations with the planner's decisions."""

    def __init__(
        self,
        store: Store,
        datasets: Datasets,
        blobs: Blobs,
        queue: Queue,
        clock: Clock,
        telemetry: Telemetry,
        lease: timedelta = timedelta(seconds=15),
    ) -> None:
        """`lease` is that of the workers."""
        self._store = store
        self._telemetry = telemetry
        self._holding = Holding(store.holds, datasets, clock)
        self._holds = HoldKeeper(store, self._holding, clock)
        self._clock = clock
        self._blobs = blobs
        self._housekeeping = Housekeeping(store, blobs, queue, clock, Counts(store, clock, telemetry))
        self._search = Search(store, Selection(blobs), clock, self._housekeeping.announce)
        self._workers = Workers(store, queue, clock, lease.total_seconds())

    async def run(self) -> None:
        """Reconciles after every change and every tick, until cancelled.

        What asks the dataset service has its own loops, so that one that does not answer stops no training.
        """
        await self._store.synced()
        models_changed = partial(Changes(self._store.models.view).wait, TICK_SECONDS)
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat(self._start_all, models_changed), name="start models")
            group.create_task(self._repeat(self._advance_all), name="advance models")
            group.create_task(self._repeat(self._housekeeping.reconcile), name="housekeeping")
            group.create_task(self._repeat(self._holds.reconcile), name="holds")

    async def _repeat(self, run_pass: Callable[[], Awaitable[None]]) -> None:
        changes, began = self._store.changes(), self._clock.monotonic()

        async def pause() -> None:
            nonlocal began
            await self._clock.sleep(self._clock.monotonic() - began)  # at most half of the time is spent in passes
            await changes.wait(TICK_SECONDS)
            began = self._clock.monotonic()

        await repeat(run_pass, pause)

    async def reconcile(self) -> None:
        """One reconciliation pass over everything."""
        await self._start_all()
        await self._advance_all()
        await self._housekeeping.reconcile()
        await self._holds.reconcile()

    async def _start_all(self) -> None:
        await self._step_all(lambda model: model.state is ModelState.NOT_STARTED)

    async def _advance_all(self) -> None:
        await self._workers.count()
        self._telemetry.set(metrics.WORKERS_FREE, self._workers.free)
        await self._step_all(lambda model: not model.ended and model.state is not ModelState.NOT_STARTED)

    async def _step_all(self, chosen: Callable[[Model], bool]) -> None:
        models = [found.value for found in self._store.models.view.all() if chosen(found.value)]
        await asyncio.gather(*(self._try_step(model) for model in models))

    async def _try_step(self, model: Model) -> None:
        """One step; errors are logged, and the next pass tries again."""
        with about(model.name):
            try:
                await self._step(model)
            except (Conflict, RecordExists, NotFound, Unavailable) as error:
                _log.info("reconcile_postponed", problem=str(error))  # a lost race or an outage
            except Exception as error:  # noqa: BLE001 - one model's defect must not stop the others
                _log.error("reconcile_failed", error)

    async def _step(self, model: Model) -> None:
        match model.state:
            case ModelState.NOT_STARTED:
                await self._start(model)
            case ModelState.TRAINING:
                try:
                    await self._train(model)
                except RecordTooLarge as error:  # so would the next pass
                    await self._move(model, [], ModelState.FAILED, error=error.failure())
            case ModelState.CANCELLING:
                await self._cancel(model)
            case _:
                return

    # NOT_STARTED

    async def _start(self, model: Model) -> None:
        """TRAINING once the datasets are READY, FAILED if they cannot be used."""
        try:
            training = check_usable(await self._holding.hold(model, model.training_dataset))
            test = check_usable(await self._holding.hold(model, model.test_dataset)) if model.test_dataset else None
            if any(dataset and dataset.state is DatasetState.VALIDATING for dataset in (training, test)):
                return
            started = self._started(model, training, test)
            await copy_base(self._blobs, model)
            await self._store.models.change(model.name, lambda present: started if present == model else present)
        except Unavailable:
            raise
        except SightlineError as error:
            await self._move(model, [], ModelState.FAILED, error=error.failure())

    def _started(self, model: Model, training: Dataset, test: Dataset | None) -> Model:
        check_training_dataset(training, model.model_kind)
        if test is not None:
            check_kind(test, model.model_kind)
            check_categories(test, training.category_names, model.model_kind)
        check_budget(model, training.image_count, test.image_count if test else 0)
        now = self._clock.now()
        return model.moved(
            ModelState.TRAINING,
            now,
            start_time=now,
            training=training.snapshot(),
            test=test.snapshot() if test else None,
            categories=training.category_names,
            warnings=(*model.warnings, *alike_warnings(training.category_names)),
        )

    # TRAINING

    async def _train(self, model: Model) -> None:
        trials = self._store.trials_of(model.name)
        if any(trial.model_uid != model.uid for trial in trials):
            return  # of a deleted model of the same name: housekeeping removes them
        model = await self._search.serve_best(model, trials)
        if model.state is not ModelState.TRAINING:
            return  # another replica was faster
        if await self._search.create_planned(model, trials):
            return
        match plan(model, trials, self._store.final_of(model.name), self._workers.free):
            case StartTrial() as step:
                with self._workers.claimed():
                    await self._search.start_trial(model, trials, step)
            case StartEvaluation(allowance):
                await self._search.start_final(model, trials, allowance)
            case Finish(reason):
                await self._finish(model, trials, reason)
            case Fail(error):
                await self._move(model, trials, ModelState.FAILED, error=error)
            case Wait():
                return

    async def _finish(self, model: Model, trials: list[Trial], reason: StopReason) -> None:
        """SUCCEEDED, with the performance on the test dataset if that was measured."""
        final = self._store.final_of(model.name)
        served, warnings = measured(model, final)
        await self._move(
            model,
            trials,
            ModelState.SUCCEEDED,
            served=served,
            warnings=warnings,
            stop_reason=reason,
            training_cost=training_cost(trials, final),
        )

    # CANCELLING and every end

    async def _cancel(self, model: Model) -> None:
        """Asks running work to stop; CANCELLED once all work has ended."""
        now = self._clock.now()
        trials, final = self._store.trials_of(model.name), self._store.final_of(model.name)
        if await self._search.create_planned(model, trials):
            return
        for trial in trials:
            if not trial.work.ended:
                await self._store.trials.change(trial.name, lambda present: asked_to_stop(present, now))
        if final is not None and not final.work.ended:
            await self._store.evaluations.change(final.name, lambda present: asked_to_stop(present, now))
        trials, final = self._store.trials_of(model.name), self._store.final_of(model.name)
        if all(work.ended for work in works_of(trials, final)):
            await self._move(model, trials, ModelState.CANCELLED, training_cost=training_cost(trials, final))

    async def _move(self, model: Model, trials: list[Trial], state: ModelState, **changes: object) -> None:
        """Moves the model to its next state, unless another replica has, or has planned a trial after these."""
        now = self._clock.now()
        if state is ModelState.FAILED:
            trials, final = self._store.trials_of(model.name), self._store.final_of(model.name)
            changes["training_cost"] = training_cost(trials, final)
        moved = False

        def decide(present: Model) -> Model:
            nonlocal moved
            moved = present.state is model.state and present.has_all_planned(trials)
            return present.moved(state, now, **changes) if moved else present

        changed = (await self._store.models.change(model.name, decide)).value
        if moved and changed.ended:
            self._telemetry.add(metrics.MODELS_ENDED, 1, state=state)
            self._telemetry.add(metrics.MODELS_COST_SECONDS, changed.training_cost.total_seconds())
        _log.info("model_moved", state=state)
