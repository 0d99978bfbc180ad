"""A training rehearsed: the planner's own steps for a budget, each taking what a probe measured. Pure functions.

As it asks `plan` for every step, it follows whatever ladder is in force. Every trial is assumed to succeed, and to win
where the ladder expects it to.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from services.trainer.domain import Model, ModelState, Served, Trial, TrialResult
from services.trainer.estimate import Estimate, Observation, Probe
from services.trainer.performance import Performance, Source
from services.trainer.planner.costs import (
    FIXED_SECONDS,
    RESERVE_FACTOR,
    as_run,
    expected_seconds,
    reserve_seconds,
    resolution_of,
)
from services.trainer.planner.plan import plan
from services.trainer.planner.selection import follows
from services.trainer.planner.steps import StartEvaluation, StartTrial
from services.trainer.recipe import HOLDOUT_FRACTION, MIN_HELD_OUT_FROM, Recipe, is_linear
from services.trainer.work import Work
from services.vision.card import ModelKind, WeightsSource

SCORE, ERROR = 0.5, 0.05  # of a rehearsed trial: what it reaches is not known


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """What recipes cost on the device that was probed, in seconds of the reference device."""

    observations: tuple[Observation, ...]
    weights_source: WeightsSource
    factor: float

    @classmethod
    def of(cls, probe: Probe, factor: float) -> "MeasuredCosts":
        """The costs that the probe shows; `factor` is the worker's."""
        return cls(probe.observations, probe.weights_source, factor)

    def seconds(self, recipe: Recipe, image_count: int, resolution: int, epochs: int | None = None) -> float:
        """The whole cost; with `epochs`, of that many instead of all."""
        scaling = expected_seconds(self._as_run(recipe), image_count, resolution, epochs) - FIXED_SECONDS
        observed = self._closest(recipe)
        fixed = observed.seconds - observed.scaling_seconds
        return self.factor * (fixed + self._slowness(observed) * scaling)

    def evaluation_seconds(self, recipe: Recipe, test_count: int, resolution: int) -> float:
        """Of a model of the recipe on the test dataset."""
        slowness = self.factor * self._slowness(self._closest(recipe))
        return slowness * reserve_seconds(self._as_run(recipe), test_count, resolution) / RESERVE_FACTOR

    def score(self, recipe: Recipe, image_count: int) -> float:
        """Of a classifier's head, if it was measured on all images: with a perfect one the training ends there."""
        observed = self._closest(recipe)
        known = is_linear(recipe) and is_linear(observed.recipe) and observed.image_count >= image_count
        return observed.score if known else SCORE

    def _as_run(self, recipe: Recipe) -> Recipe:
        """With the network that the worker chose, if the recipe leaves that to the worker."""
        if recipe.choose:
            recipe = msgspec.structs.replace(recipe, backbones=self.observations[0].recipe.backbones)
        return as_run(recipe, self.weights_source)

    def _closest(self, recipe: Recipe) -> Observation:
        """The observation of the recipe that has most in common with this one; the first of several."""

        def differences(observed: Observation) -> tuple[bool, ...]:
            ran = observed.recipe
            return (
                is_linear(ran) != is_linear(recipe),
                ran.choose != recipe.choose or (not ran.choose and ran.backbones != recipe.backbones),
                ran.depth != recipe.depth,
                (ran.framings, ran.views) != (recipe.framings, recipe.views),
            )

        return min(self.observations, key=differences)

    def _slowness(self, observed: Observation) -> float:
        """Measured time divided by the table's, of what grows with the images."""
        ran = as_run(observed.recipe, self.weights_source)
        return observed.scaling_seconds / (
            expected_seconds(ran, observed.image_count, observed.resolution) - FIXED_SECONDS
        )


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A training as it is expected to go."""

    recipes: tuple[Recipe, ...]
    cost: timedelta
    is_whole: bool  # no trial was cut short


def rehearse(estimate: Estimate, budget: timedelta) -> Rehearsal:
    """The training that the estimate asks about, with this budget."""
    assert estimate.probe is not None, "its probe has ended"
    now = estimate.work.create_time
    costs = MeasuredCosts.of(estimate.probe, estimate.device_factor)
    model = msgspec.structs.replace(estimate.model, budget=budget, state=ModelState.TRAINING, start_time=now)
    trials: list[Trial] = []
    spent, whole = timedelta(), True
    while isinstance(step := plan(model, trials, None), StartTrial):
        trial, full = _run(estimate, model, trials, step, costs, now)
        whole = whole and full
        trials.append(trial)
        spent += trial.work.charged
        model = _served(model, trials)
    if isinstance(step, StartEvaluation) and (served := _trial_of(model, trials)):
        test_count = model.test.image_count if model.test else 0
        seconds = costs.evaluation_seconds(served.recipe, test_count, resolution_of(trials))
        spent += min(step.allowance, timedelta(seconds=seconds))
    return Rehearsal(tuple(trial.recipe for trial in trials), spent, whole)


def _run(
    estimate: Estimate, model: Model, trials: list[Trial], step: StartTrial, costs: MeasuredCosts, now: datetime
) -> tuple[Trial, bool]:
    """The step's trial as it ends, and whether it had enough time."""
    probe, training, recipe = estimate.probe, model.training, step.recipe
    assert probe is not None, "its probe has ended"
    assert training is not None, "an estimate has its snapshot"
    resolution = recipe.resolution or (resolution_of(trials) if trials else probe.observations[0].resolution)
    wanted = costs.seconds(recipe, training.image_count, resolution)
    taken = min(wanted, step.allowance_seconds)
    epochs = 0 if is_linear(recipe) else max(1, round(recipe.max_epochs * taken / wanted))
    work = Work(create_time=now, allowance=step.allowance).taken("rehearsal", "rehearsal", now, timedelta(1))
    result = TrialResult(
        score=costs.score(recipe, training.image_count),
        standard_error=ERROR,
        bundle_key="",
        predictions_key="",
        performance_key="",
        performance=Performance(source=_source(estimate), image_count=0 if recipe.refit else training.image_count),
        weights_source=probe.weights_source,
        resolution=resolution,
        networks=probe.observations[0].recipe.backbones if recipe.choose else recipe.backbones,
        backbones=probe.backbones,
        epochs=epochs,
        boxes=probe.boxes,
        mirror=probe.mirror,
    )
    trial = Trial(
        name=f"{model.name}/trials/t{len(trials):03d}",
        model_uid=model.uid,
        number=len(trials),
        training=training,
        recipe=recipe,
        holdout_fraction=0.0 if model.test else HOLDOUT_FRACTION,
        seed=model.hyperparameters.seed,
        parent_trial=step.parent_trial,
        work=work.succeeded(now, timedelta(seconds=taken)),
        result=result,
        update_time=now,
    )
    return trial, taken >= wanted


def _source(estimate: Estimate) -> Source:
    held_out = estimate.model.test is None and estimate.fewest >= MIN_HELD_OUT_FROM
    return Source.HOLD_OUT if held_out else Source.CROSS_VALIDATION


def _trial_of(model: Model, trials: list[Trial]) -> Trial | None:
    return next((trial for trial in trials if model.served and trial.name == model.served.trial), None)


def _served(model: Model, trials: list[Trial]) -> Model:
    """The model once the last trial has ended: it wins if the ladder expects it to, as selection's margin says."""
    last, best = trials[-1], _trial_of(model, trials)
    assert last.result is not None, "every rehearsed trial succeeds"
    if best is not None and last.recipe.kind is ModelKind.GENERIC_DETECTOR and not follows(last, best):
        return model
    served = Served(trial=last.name, version="", bundle_key="", performance=last.result.performance, performance_key="")
    return msgspec.structs.replace(model, served=served)
