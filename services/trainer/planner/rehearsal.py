"""A training rehearsed: the ladder's own steps for a budget, each taking what it is expected to take. Pure functions.

Every trial is assumed to succeed, and to win where selection expects it to.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from services.trainer.datasets import Snapshot
from services.trainer.domain import Model, ModelState, Served, Trial, TrialResult, granted, served_trial
from services.trainer.feature_blocks import FeatureUse
from services.trainer.performance import Performance
from services.trainer.planner import ladder
from services.trainer.planner.costs import known_passes, resolution_of
from services.trainer.planner.prospect import Prospect
from services.trainer.planner.selection import margin
from services.trainer.planner.steps import StartTrial
from services.trainer.recipe import HOLDOUT_FRACTION, Recipe, is_linear
from services.trainer.work import Work

ERROR = 0.05  # of a rehearsed trial's score


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A training as it is expected to go."""

    recipes: tuple[Recipe, ...]
    cost: timedelta
    is_whole: bool  # no trial was cut short


def rehearse(prospect: Prospect, budget: timedelta) -> Rehearsal:
    """The training with this budget."""
    now = prospect.model.create_time
    asked = prospect.with_budget(budget)
    model = msgspec.structs.replace(asked, state=ModelState.TRAINING, start_time=now)
    trials: list[Trial] = []
    whole = True
    while isinstance(step := ladder.next_trial(model, trials), StartTrial):
        trial, full = _run(prospect, model, trials, step, now)
        whole = whole and full
        trials.append(trial)
        model = _served(model, trials)
    spent = granted(trials, None)
    if served := served_trial(model, trials):
        seconds = prospect.costs.evaluation_seconds(served.recipe, prospect.test_count, resolution_of(trials))
        spent += min(budget - spent, timedelta(seconds=seconds))
    return Rehearsal(tuple(trial.recipe for trial in trials), spent, whole)


def _run(prospect: Prospect, model: Model, trials: list[Trial], step: StartTrial, now: datetime) -> tuple[Trial, bool]:
    """The step's trial as it ends, and whether it had enough time."""
    recipe, costs, count = step.recipe, prospect.costs, prospect.image_count
    side = recipe.resolution or (resolution_of(trials) if trials else prospect.probe.observations[0].resolution)
    known = known_passes(trials) | set(prospect.probe.stored)
    wanted = costs.seconds(recipe, count, side, known)
    taken = min(wanted, step.allowance_seconds)
    saved = timedelta(seconds=costs.seconds(recipe, count, side) - wanted)
    work = Work(create_time=now, allowance=step.allowance).taken("rehearsal", "rehearsal", now, timedelta(1))
    trial = Trial(
        name=f"{model.name}/trials/t{len(trials):03d}",
        model_uid=model.uid,
        number=len(trials),
        training=_snapshot(model),
        recipe=recipe,
        holdout_fraction=0.0 if model.test else HOLDOUT_FRACTION,
        seed=model.hyperparameters.seed,
        parent_trial=step.parent_trial,
        work=work.succeeded(now, timedelta(seconds=taken)),
        result=_result(prospect, recipe, side, taken / wanted, saved),
        update_time=now,
    )
    return trial, taken >= wanted


def _result(prospect: Prospect, recipe: Recipe, side: int, share: float, saved: timedelta) -> TrialResult:
    """The result of a trial that ran this share of its recipe."""
    probe, refit = prospect.probe, recipe.refit
    return TrialResult(
        score=prospect.costs.score(recipe, prospect.image_count),
        standard_error=ERROR,
        bundle_key="",
        predictions_key="",
        performance_key="",
        performance=Performance(source=prospect.source, image_count=0 if refit else prospect.image_count),
        weights_source=probe.weights_source,
        resolution=side,
        networks=prospect.costs.networks(recipe),
        backbones=probe.backbones,
        epochs=0 if is_linear(recipe) else max(1, round(recipe.max_epochs * share)),
        boxes=probe.boxes,
        mirror=probe.mirror,
        features=FeatureUse(reused=0, computed=0, saved=saved, by_graph=probe.by_graph) if is_linear(recipe) else None,
    )


def _snapshot(model: Model) -> Snapshot:
    assert model.training is not None, "a prospect has its snapshots"
    return model.training


def _served(model: Model, trials: list[Trial]) -> Model:
    """The model once the last trial has ended."""
    last, best = trials[-1], served_trial(model, trials)
    assert last.result is not None, "every rehearsed trial succeeds"
    if best is not None and not _wins(last, best):
        return model
    served = Served(trial=last.name, version="", bundle_key="", performance=last.result.performance, performance_key="")
    return msgspec.structs.replace(model, served=served)


def _wins(last: Trial, best: Trial) -> bool:
    """Whether selection expects the trial to be no worse; a refit is not compared."""
    return last.parent_trial == best.name if last.recipe.refit else margin(last, best) < 0
