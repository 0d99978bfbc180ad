"""A classifier's ladder: heads on frozen features, by cost, then a fine-tuning or a training from random weights."""

from math import inf

from services.trainer.domain import Hyperparameters, Model, StopReason, Trial, TrialResult, served_trial
from services.trainer.performance import Source
from services.trainer.planner import classifier_recipes
from services.trainer.planner.budget import SLACK, BudgetView
from services.trainer.planner.steps import StartTrial, Wait
from services.trainer.recipe import Recipe
from services.vision.card import WeightsSource
from services.vision.catalogue import BACKBONES

WORTHWHILE_EPOCHS = 5  # fewer are not worth a fine-tuning's cost
HEAD_SLACK = 3.0  # of a head's expected time: what it may take, except the first

first = classifier_recipes.first


def climb(wanted: Hyperparameters, image_count: int) -> list[Recipe]:
    """What a generous budget pays for, as far as it is known before the images are."""
    begun = first(wanted)
    return [begun, *classifier_recipes.pretrained(wanted.backbones or begun.backbones, wanted, image_count)]


def next_trial(model: Model, trials: list[Trial], budget: BudgetView) -> StartTrial | StopReason | Wait:
    """The next recipe that fits and need not wait for a trial that runs, or why there is none."""
    if trials and not trials[0].work.ended:
        return Wait()  # it tells which weights there are
    best = served_trial(model, trials)
    if best is not None and best.result is not None and best.result.score >= 1.0:
        return StopReason.CONVERGED  # a gain could not be told from a perfect score
    done = {trial.recipe.name for trial in trials}
    candidates = [recipe for recipe in _recipes(model, trials, budget.image_count) if recipe.name not in done]
    for recipe in candidates:
        if _depends_on(recipe, budget.running):
            continue
        available, expected = budget.available(recipe), budget.expected(recipe)
        least = expected if recipe.rung == 0 else expected * min(1.0, WORTHWHILE_EPOCHS / recipe.max_epochs)
        if available >= least or (not trials and available > 0):
            alone = not trials or not (budget.shared and len(candidates) > 1)
            slack = HEAD_SLACK if trials and not recipe.rung else inf if alone else SLACK
            return StartTrial(recipe, min(available, slack * expected), expected)
    return StopReason.BUDGET_REACHED if candidates else StopReason.LADDER_COMPLETED


def _depends_on(recipe: Recipe, running: tuple[Recipe, ...]) -> bool:
    """Whether a trial that runs may change the recipe: only mirrored views tell whether mirroring harms."""
    return recipe.rung > 0 and recipe.pretrained and any(other.views > 1 and not other.rung for other in running)


def _recipes(model: Model, trials: list[Trial], image_count: int) -> list[Recipe]:
    """The ladder as far as it is known: the first rung tells which weights there are, and how many images."""
    wanted = model.hyperparameters
    if not trials:
        return [classifier_recipes.first(wanted)]
    ladder = classifier_recipes.scratch(wanted)
    first = trials[0].result
    if first is not None and (known := _within_reach(first, wanted)):
        mirror = all(trial.result.mirror for trial in trials if trial.result)
        ladder = classifier_recipes.pretrained(known, wanted, image_count, mirror=mirror)
    if first is not None and first.performance.source is Source.CROSS_VALIDATION and model.test is None:
        ladder = [recipe for recipe in ladder if recipe.rung == 0]  # no image is left to measure a fine-tuned one on
    if wanted.max_rung is not None:
        ladder = [recipe for recipe in ladder if recipe.rung <= wanted.max_rung]
    return [trials[0].recipe, *ladder]


def _within_reach(first: TrialResult, wanted: Hyperparameters) -> tuple[str, ...]:
    """The networks whose pretrained weights the workers have or can have, the preferred ones first."""
    if first.weights_source is WeightsSource.RANDOM:
        return ()
    return wanted.backbones or tuple(
        name for name in first.backbones if name in BACKBONES
    )  # a newer worker's may not be
