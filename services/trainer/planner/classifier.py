"""A classifier's ladder: heads on frozen features, by cost, then a fine-tuning or a training from random weights."""

from dataclasses import replace
from math import inf

from services.trainer.domain import Hyperparameters, Model, StopReason, Trial, TrialResult, served_trial
from services.trainer.feature_blocks import passes_of
from services.trainer.performance import Source
from services.trainer.planner import classifier_recipes
from services.trainer.planner.budget import SLACK, BudgetView
from services.trainer.planner.steps import StartTrial, Wait
from services.trainer.prediction_cost import LEAST_SIDE, keeps_to, largest_side, narrowed
from services.trainer.recipe import Recipe
from services.vision.card import ModelKind, WeightsSource
from services.vision.catalogue import BACKBONES

WORTHWHILE_EPOCHS = 5  # fewer are not worth a fine-tuning's cost
SURE_FROM = 100  # images without a mistake; with fewer, the next ones are likely to bring some
HEAD_SLACK = 3.0  # of a head's expected time: what it may take, except the first


def first(wanted: Hyperparameters) -> Recipe:
    """On the preferred network, or the first that keeps to the limit of a prediction's cost at a smaller input size.

    If there is none, it is the one without a limit.
    """
    limit, preferred = wanted.max_prediction_seconds, classifier_recipes.first(wanted)
    if (recipe := narrowed(preferred, limit)) is not None:
        return recipe
    for name in wanted.backbones or (*preferred.backbones, *BACKBONES):
        usual = replace(wanted, backbones=(name,))
        smaller = replace(usual, resolution=wanted.resolution or _largest_side(name, limit))
        for tried in (usual, smaller):
            if (recipe := narrowed(classifier_recipes.first(tried), limit)) is not None:
                return recipe
    return preferred


def _largest_side(name: str, limit: float | None) -> int | None:
    """The largest input that keeps to the limit; None if it is too small to be of use."""
    side = largest_side(ModelKind.GENERIC_CLASSIFIER, name, limit) if limit is not None else 0
    return side if side >= LEAST_SIDE else None


def rungs(recipes: tuple[Recipe, ...], image_count: int) -> frozenset[object]:
    """All of its recipes: none is tried for its settings' sake."""
    del image_count
    return frozenset(recipe.name for recipe in recipes)


def next_trial(model: Model, trials: list[Trial], budget: BudgetView) -> StartTrial | StopReason | Wait:
    """The next recipe that fits and need not wait for a trial that runs, or why there is none."""
    if trials and not trials[0].work.ended:
        return Wait()  # it tells which weights there are
    best = served_trial(model, trials)
    if best is not None and best.result is not None and best.result.score >= 1.0 and budget.image_count >= SURE_FROM:
        return StopReason.CONVERGED  # a gain could not be told from a perfect score
    done = {trial.recipe.name for trial in trials}
    ladder = _recipes(model, trials, budget.image_count)
    candidates = [recipe for recipe in ladder if recipe.name not in done and not _is_part(recipe, budget)]
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


def _is_part(recipe: Recipe, budget: BudgetView) -> bool:
    """Whether another trial reads all that a head would: it stands for one that there was no time for."""
    read = budget.known.union(*map(passes_of, budget.running))
    return bool(passes := passes_of(recipe)) and passes <= read


def _depends_on(recipe: Recipe, running: tuple[Recipe, ...]) -> bool:
    """Whether a trial that runs may change the recipe: only mirrored views tell whether mirroring harms."""
    return recipe.rung > 0 and recipe.pretrained and any(other.views > 1 and not other.rung for other in running)


def _recipes(model: Model, trials: list[Trial], image_count: int) -> list[Recipe]:
    """The ladder as far as it is known: the first rung tells which weights there are, and how many images."""
    wanted = model.wanted
    if not trials:
        return [first(wanted)]
    shown = trials[0].result
    if shown is None:
        return [trials[0].recipe]  # what ended it would end the others too
    ladder = _scratch(wanted)
    if known := _within_reach(shown, model):
        mirror = all(trial.result.mirror for trial in trials if trial.result)
        ladder = _pretrained(known, wanted, image_count, mirror=mirror)
    few = image_count < classifier_recipes.TUNED_FROM
    if few and shown.performance.source is Source.CROSS_VALIDATION and model.test is None:
        ladder = [recipe for recipe in ladder if recipe.rung == 0 or recipe.stored_maps]  # what predicts every fold
    if wanted.max_rung is not None:
        ladder = [recipe for recipe in ladder if recipe.rung <= wanted.max_rung]
    return [trials[0].recipe, *ladder]


def _pretrained(
    backbones: tuple[str, ...], wanted: Hyperparameters, image_count: int, *, mirror: bool = True
) -> list[Recipe]:
    """What follows with pretrained weights and keeps to the limit of a prediction's cost."""
    limit = wanted.max_prediction_seconds
    single = [replace(wanted, backbones=(name,)) for name in backbones]
    cheap = tuple(one.backbones[0] for one in single if keeps_to(classifier_recipes.first(one), limit))
    ladder = classifier_recipes.pretrained(cheap, wanted, image_count, mirror=mirror) if cheap else []
    return [kept for recipe in ladder if (kept := narrowed(recipe, limit)) is not None]


def _scratch(wanted: Hyperparameters) -> list[Recipe]:
    """What follows without: on the first recipe's network and input if the usual one exceeds the limit."""
    begun, limit = first(wanted), wanted.max_prediction_seconds
    smaller = replace(wanted, backbones=begun.backbones, resolution=begun.resolution or None)
    ladder = classifier_recipes.scratch(wanted)
    if not all(keeps_to(recipe, limit) for recipe in ladder):
        ladder = classifier_recipes.scratch(smaller)
    return [kept for recipe in ladder if (kept := narrowed(recipe, limit)) is not None]


def _within_reach(first: TrialResult, model: Model) -> tuple[str, ...]:
    """The networks whose pretrained weights the workers have or can have, the preferred ones first."""
    brought = model.base.networks if model.base else ()
    if first.weights_source is WeightsSource.RANDOM:
        return ()
    known = (name for name in first.backbones if name in BACKBONES)  # a newer worker's may not be
    return model.hyperparameters.backbones or tuple(dict.fromkeys((*brought, *known)))
