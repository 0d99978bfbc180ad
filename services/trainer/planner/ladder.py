"""The ladders by kind of model: which recipe comes next within a budget."""

from types import MappingProxyType

from services.kit.errors import NotEnoughBudget
from services.trainer.domain import Hyperparameters, Model, StopReason, Trial
from services.trainer.planner import classifier, detector
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.steps import StartTrial, Wait
from services.trainer.recipe import Recipe
from services.vision.card import ModelKind

_LADDERS = MappingProxyType({ModelKind.GENERIC_CLASSIFIER: classifier, ModelKind.GENERIC_DETECTOR: detector})


def next_trial(model: Model, trials: list[Trial], *, shared: bool = False) -> StartTrial | StopReason | Wait:
    """The next recipe that fits into what is left of the budget, or why there is none."""
    budget = BudgetView.of(model, trials, shared=shared)
    if budget.trials <= 0:
        return StopReason.LADDER_COMPLETED
    step = _LADDERS[model.model_kind].next_trial(model, trials, budget)
    if step is StopReason.LADDER_COMPLETED and any(map(_was_too_expensive, trials)):
        return StopReason.BUDGET_REACHED
    return step


def _was_too_expensive(trial: Trial) -> bool:
    return trial.work.error is not None and trial.work.error.reason == NotEnoughBudget.reason


def first(kind: ModelKind, wanted: Hyperparameters) -> Recipe:
    """The recipe that every budget must pay for."""
    return _LADDERS[kind].first(wanted)


def rungs(kind: ModelKind, recipes: tuple[Recipe, ...], image_count: int) -> frozenset[object]:
    """What of the ladder a training has climbed that ran these recipes: two that climbed the same compare equal."""
    return _LADDERS[kind].rungs(recipes, image_count)
