"""Moves every model through its training: reads its records, decides the next step and writes it. Level-triggered.

It is stateless, so any number of replicas may run and any of them may die: decisions are functions of the records,
trials are numbered and created, never overwritten, and models change by compare-and-set only.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from msgspec.structs import replace

from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.errors import Conflict, NotFound, RecordExists, SightlineError, Unavailable
from services.kit.log import Log, about
from services.kit.names import join
from services.kit.queue import Queue
from services.kit.tasks import repeat
from services.kit.telemetry import Telemetry
from services.kit.views import Changes
from services.trainer import metrics
from services.trainer.coverage import check_categories
from services.trainer.datasets import (
    Dataset,
    Datasets,
    DatasetState,
    check_kind,
    check_training_dataset,
    usable,
)
from services.trainer.domain import (
    Model,
    ModelState,
    Served,
    StopReason,
    Trial,
    asked_to_stop,
    scored_trial,
    training_cost,
    works_of,
)
from services.trainer.planner.plan import check_budget, plan
from services.trainer.planner.selection import Selection
from services.trainer.planner.steps import Fail, Finish, StartEvaluation, StartTrial, Wait
from services.trainer.recipe import HOLDOUT_FRACTION
from services.trainer.reconcile.counts import Counts
from services.trainer.reconcile.final_evaluation import measured, planned
from services.trainer.reconcile.housekeeping import Housekeeping
from services.trainer.store import Store
from services.trainer.work import Work

TICK_SECONDS = 1.0

_log = Log(__name__)


class Coordinator:
    """Reconciles models, trials and evaluations with the planner's decisions."""

    def __init__(
        self, store: Store, datasets: Datasets, blobs: Blobs, queue: Queue, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._datasets = datasets
        self._clock = clock
        self._selection = Selection(blobs)
        self._housekeeping = Housekeeping(store, blobs, queue, clock, Counts(store, clock, telemetry))

    async def run(self) -> None:
        """Reconciles after every change and every tick, until cancelled.

        Models that wait for datasets have their own loop, so that a dataset service that does not answer stops no
        training.
        """
        await self._store.synced()
        models_changed = partial(Changes(self._store.models.view).wait, TICK_SECONDS)
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat(self._start_all, models_changed), name="start models")
            group.create_task(self._repeat(self._advance_all), name="advance models")
            group.create_task(self._repeat(self._housekeeping.reconcile), name="housekeeping")

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

    async def _start_all(self) -> None:
        await self._step_all(lambda model: model.state is ModelState.NOT_STARTED)

    async def _advance_all(self) -> None:
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
                await self._train(model)
            case ModelState.CANCELLING:
                await self._cancel(model)
            case _:
                return

    # NOT_STARTED

    async def _start(self, model: Model) -> None:
        """TRAINING once the datasets are READY, FAILED if they cannot be used."""
        try:
            training = await usable(self._datasets, model.training_dataset)
            test = await usable(self._datasets, model.test_dataset) if model.test_dataset else None
            if any(dataset and dataset.state is DatasetState.VALIDATING for dataset in (training, test)):
                return
            started = self._started(model, training, test)
            await self._store.models.change(model.name, lambda present: started if present == model else present)
        except Unavailable:
            raise
        except SightlineError as error:
            await self._move(model, ModelState.FAILED, error=error.failure())

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
        )

    # TRAINING

    async def _train(self, model: Model) -> None:
        trials = self._store.trials_of(model.name)
        model = await self._serve_best(model, trials)
        step = plan(model, trials, self._store.final_of(model.name))
        match step:
            case StartTrial():
                await self._start_trial(model, len(trials), step)
            case StartEvaluation(allowance):
                await self._start_final(model, allowance)
            case Finish(reason):
                await self._finish(model, trials, reason)
            case Fail(error):
                await self._move(model, ModelState.FAILED, error=error)
            case Wait():
                return

    async def _start_trial(self, model: Model, number: int, step: StartTrial) -> None:
        now = self._clock.now()
        assert model.training is not None, "a model in TRAINING has its snapshot"
        trial = Trial(
            name=join(model.name, "trials", f"t{number:03d}"),
            model_uid=model.uid,
            number=number,
            training=model.training,
            recipe=step.recipe,
            holdout_fraction=0.0 if model.test else HOLDOUT_FRACTION,
            seed=model.hyperparameters.seed,
            expected_seconds=step.expected_seconds,
            parent_trial=step.parent_trial,
            work=Work(create_time=now, allowance=step.allowance),
            update_time=now,
        )
        await self._store.trials.create(trial)
        _log.info("trial_planned", name=trial.name, recipe=step.recipe.name, allowance_seconds=step.allowance_seconds)
        await self._housekeeping.announce(trial.name, trial.work)

    async def _start_final(self, model: Model, allowance: timedelta) -> None:
        evaluation = planned(model, allowance, self._clock.now())
        await self._store.evaluations.create(evaluation)
        await self._housekeeping.announce(evaluation.name, evaluation.work)

    async def _finish(self, model: Model, trials: list[Trial], reason: StopReason) -> None:
        """SUCCEEDED, with the performance on the test dataset if that was measured."""
        final = self._store.final_of(model.name)
        served, warnings = measured(model, final)
        await self._move(
            model,
            ModelState.SUCCEEDED,
            served=served,
            warnings=warnings,
            stop_reason=reason,
            training_cost=training_cost(trials, final),
        )

    async def _serve_best(self, model: Model, trials: list[Trial]) -> Model:
        """The model, changed to serve the best trial so far.

        The performance of a refit that left no image to measure it on is that of the trial that it repeats.
        """
        best = await self._selection.best(trials)
        if best is None or best.result is None or (model.served and model.served.trial == best.name):
            return model
        result = best.result
        scored = result if result.performance.image_count else scored_trial(best, trials).result or result
        served = Served(
            trial=best.name,
            version=f"{best.name.rsplit('/', 1)[-1]}.{best.work.attempt}-{model.uid}",
            bundle_key=result.bundle_key,
            performance=scored.performance,
            performance_key=scored.performance_key,
        )
        now = self._clock.now()

        def decide(present: Model) -> Model:
            overtaken = present.served is not None and present.served.trial >= best.name  # by another replica
            if present.state is not ModelState.TRAINING or overtaken:
                return present
            warnings = tuple(dict.fromkeys((*present.warnings, *result.warnings)))
            return replace(present, served=served, warnings=warnings, update_time=now)

        changed = await self._store.models.change(model.name, decide)
        _log.info("bundle_served", trial=best.name, score=result.score)
        return changed.value

    # CANCELLING and every end

    async def _cancel(self, model: Model) -> None:
        """Asks running work to stop; CANCELLED once all work has ended."""
        now = self._clock.now()
        trials, final = self._store.trials_of(model.name), self._store.final_of(model.name)
        for trial in trials:
            if not trial.work.ended:
                await self._store.trials.change(trial.name, lambda present: asked_to_stop(present, now))
        if final is not None and not final.work.ended:
            await self._store.evaluations.change(final.name, lambda present: asked_to_stop(present, now))
        trials, final = self._store.trials_of(model.name), self._store.final_of(model.name)
        if all(work.ended for work in works_of(trials, final)):
            await self._move(model, ModelState.CANCELLED, training_cost=training_cost(trials, final))

    async def _move(self, model: Model, state: ModelState, **changes: object) -> None:
        """Moves the model to its next state, unless another replica has."""
        now = self._clock.now()
        if state is ModelState.FAILED:
            trials, final = self._store.trials_of(model.name), self._store.final_of(model.name)
            changes["training_cost"] = training_cost(trials, final)
        moved = False

        def decide(present: Model) -> Model:
            nonlocal moved
            moved = present.state is model.state
            return present.moved(state, now, **changes) if moved else present

        changed = (await self._store.models.change(model.name, decide)).value
        if moved and changed.ended:
            self._telemetry.add(metrics.MODELS_ENDED, 1, state=state)
            self._telemetry.add(metrics.MODELS_COST_SECONDS, changed.training_cost.total_seconds())
        _log.info("model_moved", state=state)
