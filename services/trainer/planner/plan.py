"""The ladder of trials: which recipe comes next, what it will cost, and when to stop. Pure functions of records.

Cheap recipes come first, so that there is a usable model after seconds; a more expensive one follows only if its
predicted cost and the final evaluation fit into what is left of the budget. Costs are predicted from a table for the
reference device, scaled by what earlier trials took.
"""

from datetime import timedelta
from types import MappingProxyType

from services.kit.errors import Failure, InvalidRequest, NotEnoughBudget
from services.trainer.domain import Evaluation, Hyperparameters, Model, StopReason, Trial, granted
from services.trainer.planner import classifier, detector
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.costs import expected_seconds, reserve_seconds
from services.trainer.planner.steps import Fail, Finish, StartEvaluation, StartTrial, Step, Wait
from services.trainer.prediction_cost import least_seconds
from services.trainer.recipe import Recipe
from services.vision.card import ModelKind

SAFETY = 1.5  # factor on the first recipe's predicted cost, in the minimum budget
SPARE = 1.2  # factor on the whole ladder's, in the suggested one
_LADDERS = MappingProxyType({ModelKind.GENERIC_CLASSIFIER: classifier, ModelKind.GENERIC_DETECTOR: detector})


def plan(model: Model, trials: list[Trial], final: Evaluation | None, free: int = 0) -> Step:
    """What a model in TRAINING needs next. `trials` ascend by number; `final` is its final evaluation, if planned.

    While trials run, a further one starts only if a worker is free. If none runs, `free` decides nothing but the next
    trial's allowance: with more than one worker, something is left for a trial beside it.
    """
    if final is not None:
        return Finish(_reason(model, trials)) if final.work.ended else Wait()
    running = any(not trial.work.ended for trial in trials)
    if running and (free < 1 or model.search_ended):
        return Wait()
    if model.search_ended:
        return StartEvaluation(model.budget - granted(trials, None))
    step = _next_trial(model, trials, shared=running or free > 1)
    if isinstance(step, StartTrial):
        return step
    if running or isinstance(step, Wait):
        return Wait()
    if model.served is None:
        return Fail(_failure(model, trials))
    if model.test is not None:
        return StartEvaluation(model.budget - granted(trials, None))
    return Finish(step)


def whole_ladder(kind: ModelKind, wanted: Hyperparameters, image_count: int) -> list[Recipe]:
    """What a generous budget pays for, the first recipe first."""
    return _LADDERS[kind].climb(wanted, image_count)


def minimum_budget(kind: ModelKind, wanted: Hyperparameters, image_count: int, test_count: int) -> float:
    """The smallest budget, in seconds, that is sure to pay for the first recipe and the evaluation."""
    recipe = _LADDERS[kind].first(wanted)
    return SAFETY * expected_seconds(recipe, image_count) + reserve_seconds(recipe, test_count)


def suggested_budget(kind: ModelKind, wanted: Hyperparameters, image_count: int, test_count: int) -> float:
    """A budget, in seconds, that pays for the whole ladder."""
    climb = whole_ladder(kind, wanted, image_count)
    cost = sum(expected_seconds(recipe, image_count) for recipe in climb)
    pays = SPARE * cost + max(reserve_seconds(recipe, test_count) for recipe in climb)
    return max(pays, minimum_budget(kind, wanted, image_count, test_count))


def check_budget(model: Model, image_count: int, test_count: int) -> None:
    """NotEnoughBudget, with the minimum and a suggestion, if not even the first recipe fits."""
    asked = model.model_kind, model.wanted, image_count, test_count
    minimum = minimum_budget(*asked)
    if model.budget < timedelta(seconds=minimum):
        raise NotEnoughBudget(
            budget_seconds=f"{model.budget.total_seconds():g}",
            dataset=model.training_dataset,
            image_count=image_count,
            minimum_seconds=_round_up(minimum),
            suggested_seconds=_round_up(suggested_budget(*asked)),
        )


def check_prediction_cost(kind: ModelKind, wanted: Hyperparameters) -> None:
    """InvalidRequest, with the minimum, if not even the cheapest prediction keeps to the limit."""
    limit = wanted.max_prediction_seconds
    least, network = least_seconds(kind, wanted.backbones, wanted.resolution)
    if limit is not None and limit < least:
        problem = (
            f"{limit * 1000:g} ms is less than the least that a prediction costs: {_milliseconds(least)} ({network})."
        )
        raise InvalidRequest(field="model.training_parameters.hyperparameters.max_prediction_cost", problem=problem)


def _milliseconds(seconds: float) -> str:
    """Rounded up to a microsecond, so that it can be requested."""
    return f"{-(-round(seconds * 1e9) // 1000) / 1000:g} ms"


def _next_trial(model: Model, trials: list[Trial], *, shared: bool = False) -> StartTrial | StopReason | Wait:
    """The next recipe that fits, or why there is none."""
    budget = BudgetView.of(model, trials, shared=shared)
    if budget.trials <= 0:
        return StopReason.LADDER_COMPLETED
    return _LADDERS[model.model_kind].next_trial(model, trials, budget)


def _reason(model: Model, trials: list[Trial]) -> StopReason:
    step = _next_trial(model, trials)
    return step if isinstance(step, StopReason) else StopReason.BUDGET_REACHED


def _failure(model: Model, trials: list[Trial]) -> Failure:
    """Why there is no bundle: the last trial's error, or a budget that was too small."""
    for trial in reversed(trials):
        if trial.work.error is not None:
            return trial.work.error
    budget = BudgetView.of(model, trials)
    count, pace, seconds = budget.image_count, max(1.0, budget.pace), model.budget.total_seconds()
    asked = model.model_kind, model.wanted, count, budget.test_count
    return NotEnoughBudget(
        budget_seconds=f"{model.budget.total_seconds():g}",
        dataset=model.training_dataset,
        image_count=count,
        minimum_seconds=_round_up(max(pace * minimum_budget(*asked), 1.5 * seconds)),
        suggested_seconds=_round_up(max(pace * suggested_budget(*asked), 3 * seconds)),
    ).failure()


def _round_up(seconds: float) -> int:
    return int(-(-seconds // 1))
