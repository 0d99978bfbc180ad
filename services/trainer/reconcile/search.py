"""What a model in TRAINING gets: the best bundle so far, its next trial, its final evaluation.

A decision is a change of the model's record by compare-and-set, refused if another replica has planned a trial since
(`Model.planned`). Only then is the record created that was decided on, by the replica that decided or, if that one
died, by any other. So replicas that see records at different times, or count different numbers of workers, never plan
the same trial twice, nor one beside the final evaluation.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from msgspec.structs import replace

from services.kit.clock import Clock
from services.kit.log import Log
from services.kit.names import join
from services.trainer.domain import Model, ModelState, Served, Trial, scored_trial, served_trial
from services.trainer.planner.selection import Selection
from services.trainer.planner.steps import StartTrial
from services.trainer.recipe import HOLDOUT_FRACTION
from services.trainer.reconcile.final_evaluation import planned
from services.trainer.store import Store
from services.trainer.used_weights import first_used
from services.trainer.work import Work

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Search:
    """Carries out steps of searches; `announce` publishes a job for work. Every method may raise RecordExists."""

    store: Store
    selection: Selection
    clock: Clock
    announce: Callable[[str, Work], Awaitable[None]]

    async def serve_best(self, model: Model, trials: list[Trial]) -> Model:
        """The model, changed to serve the best trial so far.

        Trials may end in any order, and replicas may see that at different times. Views follow one history, so whoever
        has seen more results has seen all that others compared: a choice from more results replaces one from fewer.
        """
        best = await self.selection.best(trials)
        compared = sum(trial.result is not None for trial in trials)
        if best is None or (model.served and model.served.compared >= compared):
            return model
        served, now = _served(best, trials, compared), self.clock.now()

        def decide(present: Model) -> Model:
            overtaken = present.served is not None and present.served.compared >= compared  # by another replica
            if present.state is not ModelState.TRAINING or present.uid != model.uid or overtaken:
                return present
            if present.served is not None and present.served.trial == served.trial:
                return replace(present, served=served)
            gone = _warnings(served_trial(present, trials), trials)
            kept = (warning for warning in present.warnings if warning not in gone)
            warnings = tuple(dict.fromkeys((*kept, *_warnings(best, trials))))
            return replace(present, served=served, warnings=warnings, update_time=now)

        changed = (await self.store.models.change(model.name, decide)).value
        if changed.served == served and not (model.served and model.served.trial == best.name):
            _log.info("bundle_served", trial=best.name, compared=compared)
        return changed

    async def start_trial(self, model: Model, trials: list[Trial], step: StartTrial) -> None:
        """Plans the trial that follows these, and creates it; does nothing if another replica was faster."""
        now, number = self.clock.now(), len(trials)
        assert model.training is not None, "a model in TRAINING has its snapshot"
        trial = Trial(
            name=join(model.name, "trials", f"t{number:03d}"),
            model_uid=model.uid,
            number=number,
            training=model.training,
            recipe=step.recipe,
            holdout_fraction=0.0 if model.test else HOLDOUT_FRACTION,
            seed=model.hyperparameters.seed,
            base_key=model.base_key if model.base else "",
            base_digest=model.base.bundle_digest if model.base else "",
            base_model=model.base.name if model.base else "",
            base_signature=model.base.bundle_signature if model.base else "",
            weights=first_used(one.result.weights for one in trials if one.result),
            expected_seconds=step.expected_seconds,
            parent_trial=step.parent_trial,
            work=Work(create_time=now, allowance=step.allowance, origin=model.origin),
            update_time=now,
        )
        if await self._decide(model, trials, lambda present: replace(present, planned=trial)):
            await self._create(trial)

    async def create_planned(self, model: Model, trials: list[Trial]) -> bool:
        """Creates the trial planned last if it is not among these; whether it was missing."""
        if model.planned is None or model.has_all_planned(trials):
            return False
        await self._create(model.planned)
        return True

    async def start_final(self, model: Model, trials: list[Trial], allowance: timedelta) -> None:
        """Ends the search and creates the final evaluation; does nothing if another replica has planned a trial."""
        ended = model.search_ended or await self._decide(model, trials, lambda found: replace(found, search_ended=True))
        if not ended:
            return
        evaluation = planned(model, allowance, self.clock.now())
        await self.store.evaluations.create(evaluation)
        await self.announce(evaluation.name, evaluation.work)

    async def _create(self, trial: Trial) -> None:
        await self.store.trials.create(trial)
        seconds = trial.work.allowance.total_seconds()
        _log.info("trial_planned", name=trial.name, recipe=trial.recipe.name, allowance_seconds=seconds)
        await self.announce(trial.name, trial.work)

    async def _decide(self, model: Model, trials: list[Trial], change: Callable[[Model], Model]) -> bool:
        """Records a decision made from these trials; False if another replica has decided since."""
        decided = False

        def decide(present: Model) -> Model:
            nonlocal decided
            searching = present.state is ModelState.TRAINING and not present.search_ended
            decided = searching and present.uid == model.uid and present.has_all_planned(trials)
            return change(present) if decided else present

        await self.store.models.change(model.name, decide)
        return decided


def _warnings(trial: Trial | None, trials: list[Trial]) -> list[str]:
    """Those of the trial, after those of the one whose score counts for it."""
    sources = (scored_trial(trial, trials), trial) if trial else ()
    return [warning for one in sources if one.result for warning in one.result.warnings]


def _served(best: Trial, trials: list[Trial], compared: int) -> Served:
    """The bundle of the best of these trials.

    The performance of a refit that left no image to measure it on is that of the trial that it repeats.
    """
    assert best.result is not None, "it has a bundle"
    result = best.result
    scored = result if result.performance.image_count else scored_trial(best, trials).result or result
    return Served(
        trial=best.name,
        version=f"{best.name.rsplit('/', 1)[-1]}.{best.work.attempt}-{best.model_uid}",
        bundle_key=result.bundle_key,
        bundle_digest=result.bundle_digest,
        bundle_signature=result.bundle_signature,
        performance=scored.performance,
        performance_key=scored.performance_key,
        compared=compared,
        prediction_seconds=result.prediction_seconds,
    )
