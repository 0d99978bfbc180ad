"""The ladder of trials: which recipe comes next, what it will cost, and when to stop. Pure functions of records.

Cheap rungs come first, so that there is a usable model after seconds; a dearer one follows only while its predicted
cost, with the final evaluation held back, fits into what is left of the budget. Costs are predicted from a table of
the reference device, scaled by what the trials before took.
"""

from dataclasses import dataclass

from services.kit.errors import Failure, NotEnoughBudget
from services.trainer import recipes
from services.trainer.costs import expected_seconds, reserve_seconds, resolution_of, slowness
from services.trainer.domain import (
    MAX_TRIALS,
    Evaluation,
    Hyperparameters,
    Model,
    StopReason,
    Trial,
    TrialResult,
    granted,
    served_trial,
)
from services.trainer.performance import Source
from services.trainer.protocol import Recipe
from services.trainer.work import whole_microseconds

SAFETY = 1.5  # of the first rung's predicted cost, in the minimum budget
WORTHWHILE_EPOCHS = 8  # fewer are not worth a fine-tuning's cost
# Tried where the first rung's weights could be downloaded; they are small, and good for their cost.
DOWNLOADABLE = ("mobilenet_v2", "mobilenet_v3_large")


@dataclass(frozen=True, slots=True)
class Wait:
    """Work is under way; nothing to decide."""


@dataclass(frozen=True, slots=True)
class StartTrial:
    """Carry out this recipe next."""

    recipe: Recipe
    allowance_seconds: float
    expected_seconds: float


@dataclass(frozen=True, slots=True)
class StartEvaluation:
    """Measure the best bundle on the test dataset."""

    allowance_seconds: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The training is over and has a bundle."""

    reason: StopReason


@dataclass(frozen=True, slots=True)
class Fail:
    """The training is over and has none."""

    error: Failure


Step = Wait | StartTrial | StartEvaluation | Finish | Fail


def plan(model: Model, trials: list[Trial], final: Evaluation | None) -> Step:
    """What a model in TRAINING needs next. `trials` ascend by number; `final` is its own evaluation, if begun."""
    if final is not None:
        return Finish(_reason(model, trials)) if final.work.ended else Wait()
    if any(not trial.work.ended for trial in trials):
        return Wait()
    step = _next_trial(model, trials)
    if isinstance(step, StartTrial):
        return step
    if model.served is None:
        return Fail(_failure(model, trials))
    if model.test is not None:
        return StartEvaluation(whole_microseconds(model.budget_seconds - granted(trials, None)))
    return Finish(step)


def minimum_budget(wanted: Hyperparameters, image_count: int, test_count: int) -> float:
    """The least budget, in seconds, with which the first rung and the evaluation fit for certain."""
    recipe = recipes.first(wanted)
    return SAFETY * expected_seconds(recipe, image_count) + reserve_seconds(recipe, test_count)


def suggested_budget(wanted: Hyperparameters, image_count: int, test_count: int) -> float:
    """A budget, in seconds, that pays for the whole ladder."""
    first = recipes.first(wanted)
    climb = [first, *recipes.pretrained(wanted.backbones or first.backbones, wanted)]
    cost = sum(expected_seconds(recipe, image_count) for recipe in climb)
    pays = 1.2 * cost + max(reserve_seconds(recipe, test_count) for recipe in climb)
    return max(pays, minimum_budget(wanted, image_count, test_count))


def check_budget(model: Model, image_count: int, test_count: int) -> None:
    """NotEnoughBudget, with the minimum and a suggestion, if not even the first rung fits."""
    minimum = minimum_budget(model.hyperparameters, image_count, test_count)
    if model.budget_seconds < minimum:
        raise NotEnoughBudget(
            budget_seconds=f"{model.budget_seconds:g}",
            dataset=model.training_dataset,
            image_count=image_count,
            minimum_seconds=_round_up(minimum),
            suggested_seconds=_round_up(suggested_budget(model.hyperparameters, image_count, test_count)),
        )


def _next_trial(model: Model, trials: list[Trial]) -> StartTrial | StopReason:
    """The next recipe that fits, or why there is none."""
    parameters = model.hyperparameters
    if len(trials) >= min(parameters.max_trials or MAX_TRIALS, MAX_TRIALS):
        return StopReason.LADDER_COMPLETED
    best = served_trial(model, trials)
    if best is not None and best.result is not None and best.result.score >= 1.0:
        return StopReason.CONVERGED  # a gain could not be told from a perfect score
    done = {trial.recipe.name for trial in trials}
    candidates = [recipe for recipe in _recipes(model, trials) if recipe.name not in done]
    pace, count, side = slowness(trials), _image_count(model), resolution_of(trials)
    left = model.budget_seconds - granted(trials, None)
    for recipe in candidates:
        available = whole_microseconds(left - pace * _reserve(recipe, model, trials))
        expected = pace * expected_seconds(recipe, count, side)
        least = expected if recipe.rung == 0 else expected * min(1.0, WORTHWHILE_EPOCHS / recipe.max_epochs)
        if available >= least or (not trials and available > 0):
            allowance = available if recipe.rung or not trials else min(available, 3 * expected)
            return StartTrial(recipe, allowance, expected)
    return StopReason.BUDGET_REACHED if candidates else StopReason.LADDER_COMPLETED


def _reserve(recipe: Recipe, model: Model, trials: list[Trial]) -> float:
    """What stays for the final evaluation, whether this recipe's bundle will be served or the one that is now."""
    served = served_trial(model, trials)
    candidates = (recipe, served.recipe) if served else (recipe,)
    return max(reserve_seconds(candidate, _test_count(model), resolution_of(trials)) for candidate in candidates)


def _recipes(model: Model, trials: list[Trial]) -> list[Recipe]:
    """The ladder as far as it is known: the first rung tells which weights there are, and how many images."""
    wanted = model.hyperparameters
    if not trials:
        return [recipes.first(wanted)]
    ladder = recipes.scratch(wanted)
    first = trials[0].result
    if first is not None and (known := _within_reach(first, wanted)):
        ladder = recipes.pretrained(known, wanted)
    if first is not None and first.performance.source is Source.CROSS_VALIDATION and model.test is None:
        ladder = [recipe for recipe in ladder if recipe.rung == 0]  # no image is left to measure a fine-tuned one on
    if wanted.max_rung is not None:
        ladder = [recipe for recipe in ladder if recipe.rung <= wanted.max_rung]
    return [trials[0].recipe, *ladder]


def _within_reach(first: TrialResult, wanted: Hyperparameters) -> tuple[str, ...]:
    """The networks whose pretrained weights the workers have or can have, the preferred ones first."""
    if first.weights_source == "RANDOM":
        return ()
    found = set(first.backbones)
    if first.weights_source == "TORCHVISION":
        found |= set(DOWNLOADABLE)
    return wanted.backbones or tuple(name for name in recipes.PREFERENCE if name in found)


def _image_count(model: Model) -> int:
    return model.training.image_count if model.training else 0


def _test_count(model: Model) -> int:
    return model.test.image_count if model.test else 0


def _reason(model: Model, trials: list[Trial]) -> StopReason:
    step = _next_trial(model, trials)
    return StopReason.BUDGET_REACHED if isinstance(step, StartTrial) else step


def _failure(model: Model, trials: list[Trial]) -> Failure:
    """Why there is no bundle: the last trial's own error, or a budget that did not suffice."""
    for trial in reversed(trials):
        if trial.work.error is not None:
            return trial.work.error
    wanted, count, tests = model.hyperparameters, _image_count(model), _test_count(model)
    pace = max(1.0, slowness(trials))
    return NotEnoughBudget(
        budget_seconds=f"{model.budget_seconds:g}",
        dataset=model.training_dataset,
        image_count=count,
        minimum_seconds=_round_up(max(pace * minimum_budget(wanted, count, tests), 1.5 * model.budget_seconds)),
        suggested_seconds=_round_up(max(pace * suggested_budget(wanted, count, tests), 3 * model.budget_seconds)),
    ).failure()


def _round_up(seconds: float) -> int:
    return int(-(-seconds // 1))
