"""What a training needs: its least budget, and the smallest with which a further trial would no longer pay.

CreateModel names both by the table of costs, EstimateTraining by what a worker has measured.
"""

from datetime import timedelta

import msgspec

from services.kit.errors import InvalidRequest, NotEnoughBudget
from services.trainer.domain import MAX_BUDGET, Hyperparameters, Model
from services.trainer.planner import ladder
from services.trainer.planner.costs import RESERVE_FACTOR
from services.trainer.planner.prospect import Prospect
from services.trainer.planner.rehearsal import rehearse
from services.trainer.prediction_cost import least_seconds
from services.vision.card import ModelKind

SAFETY = 1.5  # factor on the first recipe's predicted cost, in the minimum budget
FEW_EPOCHS = 2  # times the recipe's fewest, in the minimum budget
PRECISE = 1.05  # between a budget that suffices and one that does not


def minimum_seconds(prospect: Prospect) -> float:
    """The smallest budget that is sure to pay for the first recipe, with few of its epochs, and the evaluation."""
    model, costs = prospect.model, prospect.costs
    whole, side = ladder.first(model.model_kind, model.wanted), prospect.probe.observations[0].resolution
    recipe = msgspec.structs.replace(whole, max_epochs=min(whole.max_epochs, FEW_EPOCHS * whole.min_epochs))
    evaluation = costs.evaluation_seconds(recipe, prospect.test_count, side)
    return SAFETY * costs.seconds(recipe, prospect.image_count, side) + RESERVE_FACTOR * evaluation


def suggested_seconds(prospect: Prospect, minimum: float) -> float:
    """The smallest budget, from this minimum on, that climbs as much of the ladder as the largest, with no trial cut.

    What a search would do with more, such as longer schedules, rarely pays.
    """
    kind, count, most = prospect.model.model_kind, prospect.image_count, MAX_BUDGET.total_seconds()
    generous = rehearse(prospect, MAX_BUDGET)
    climbed = ladder.rungs(kind, generous.recipes, count)

    def suffices(seconds: float) -> bool:
        found = rehearse(prospect, timedelta(seconds=seconds))
        return found.is_whole >= generous.is_whole and ladder.rungs(kind, found.recipes, count) == climbed

    low = high = minimum  # which may be more than the most
    while high < most and not suffices(high):
        low, high = high, min(2 * high, most)
    while high > PRECISE * low:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def check_budget(model: Model, image_count: int, test_count: int) -> None:
    """NotEnoughBudget, with the minimum and a suggestion, if not even the first recipe fits."""
    if model.budget < timedelta(seconds=minimum_seconds(Prospect.tabled(model, image_count, test_count))):
        raise not_enough(model, image_count, test_count)


def not_enough(
    model: Model, image_count: int, test_count: int, pace: float = 1.0, *, tried: bool = False
) -> NotEnoughBudget:
    """The error, by the table at this pace; a budget that was tried in vain is not suggested again."""
    prospect, seconds = Prospect.tabled(model, image_count, test_count, pace), model.budget.total_seconds()
    minimum = max(minimum_seconds(prospect), 1.5 * seconds if tried else 0.0)
    suggested = max(suggested_seconds(prospect, minimum), 3 * seconds if tried else 0.0)
    return NotEnoughBudget(
        budget_seconds=f"{seconds:g}",
        dataset=model.training_dataset,
        image_count=image_count,
        minimum_seconds=_round_up(minimum),
        suggested_seconds=_round_up(suggested),
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


def _round_up(seconds: float) -> int:
    return int(-(-seconds // 1))
