"""What a training needs and may achieve, from a probe: its least budget, one that pays for the ladder, and others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from services.trainer.domain import MAX_BUDGET
from services.trainer.estimate import Estimate, Expectation, Observation, Probe
from services.trainer.planner.costs import (
    FIXED_SECONDS,
    PRETRAINED_RESOLUTION,
    RESERVE_FACTOR,
    expected_seconds,
    reserve_seconds,
)
from services.trainer.planner.plan import SAFETY, SPARE, minimum_budget, whole_ladder
from services.trainer.planner.rehearsal import MeasuredCosts, Rehearsal, rehearse
from services.trainer.recipe import Recipe
from services.vision.card import ModelKind, WeightsSource
from services.vision.catalogue import NETWORKS

STEP = 1.2  # from one budget to the next, in search of one that pays for everything
STEPS = 24


@dataclass(frozen=True, slots=True)
class BudgetOutlook:
    """What to expect of one budget."""

    budget: timedelta
    cost: timedelta  # of which, as a training ends when nothing is left to try
    expectation: Expectation | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """The answer to an estimate."""

    minimum: timedelta
    suggested: timedelta
    budgets: tuple[BudgetOutlook, ...]  # ascending


def with_recipes(draft: Estimate) -> Estimate:
    """The estimate with the recipes to measure: those of the ladder that differ by more than epochs, the first first.

    They are those that a training with the weights of all networks reaches. Where the ladder leaves the networks to the
    worker, the worker puts in those that it has.
    """
    model, training = draft.model, draft.model.training
    assert training is not None, "an estimate has its snapshot"
    climb = whole_ladder(model.model_kind, model.hyperparameters, training.image_count)
    as_tabled = msgspec.structs.replace(draft, probe=_tabled(climb[0], model.model_kind, training.image_count))
    recipes = _distinct(rehearse(as_tabled, MAX_BUDGET).recipes)
    return msgspec.structs.replace(draft, recipes=recipes[: len(_distinct(climb))])


def _tabled(first: Recipe, kind: ModelKind, image_count: int) -> Probe:
    """What a probe would find on the reference device, if it had the weights of all networks."""
    side = first.resolution or PRETRAINED_RESOLUTION
    seconds = expected_seconds(first, image_count, side)
    seen = Observation(
        recipe=first,
        image_count=image_count,
        seconds=seconds,
        scaling_seconds=seconds - FIXED_SECONDS,
        resolution=side,
    )
    return Probe(device="", observations=(seen,), weights_source=WeightsSource.FOLDER, backbones=tuple(NETWORKS[kind]))


def _distinct(recipes: Iterable[Recipe]) -> tuple[Recipe, ...]:
    found: list[Recipe] = []
    for recipe in recipes:
        if not any(_alike(recipe, other) for other in found):
            found.append(recipe)
    return tuple(found)


def outlook(estimate: Estimate) -> Outlook:
    """The budgets, in whole seconds rounded up, and what to expect of each; the probe has ended."""
    model = estimate.model
    assert estimate.probe is not None, "its probe has ended"
    assert model.training is not None, "an estimate has its snapshot"
    count, test_count = model.training.image_count, model.test.image_count if model.test else 0
    costs = MeasuredCosts.of(estimate.probe, estimate.device_factor)
    side = estimate.probe.observations[0].resolution
    kind, wanted = model.model_kind, model.hyperparameters
    climb = whole_ladder(kind, wanted, count)
    known = minimum_budget(kind, wanted, count, test_count)
    reserves = [_reserve(costs, recipe, test_count, side) for recipe in climb]
    minimum = max(known, SAFETY * costs.seconds(climb[0], count, climb[0].resolution or side) + reserves[0])
    cost = sum(costs.seconds(recipe, count, recipe.resolution or side) for recipe in climb)
    suggested = _sufficient(estimate, max(minimum, SPARE * cost + max(reserves)), len(climb))
    spread = sorted({minimum, (minimum * suggested) ** 0.5, suggested, 2 * suggested})
    return Outlook(
        minimum=_whole(minimum),
        suggested=_whole(suggested),
        budgets=tuple(_of_budget(estimate, budget) for budget in dict.fromkeys(map(_whole, spread))),
    )


def _reserve(costs: MeasuredCosts, recipe: Recipe, test_count: int, side: int) -> float:
    """What the planner holds back for the final evaluation: by the table, or as measured if that is more."""
    if not test_count:
        return 0.0
    return max(reserve_seconds(recipe, test_count), RESERVE_FACTOR * costs.evaluation_seconds(recipe, test_count, side))


def _sufficient(estimate: Estimate, budget: float, trials: int) -> float:
    """The smallest budget from this one on, in steps, with which as many trials as the ladder has run uncut."""
    for number in range(STEPS):
        tried = budget * STEP**number
        if tried > MAX_BUDGET.total_seconds():
            break
        found = rehearse(estimate, timedelta(seconds=tried))
        if found.is_whole and len(found.recipes) >= _reachable(estimate, trials):
            return tried
    return budget


def _reachable(estimate: Estimate, trials: int) -> int:
    """How many trials the most generous budget leads to, if fewer."""
    return min(trials, len(rehearse(estimate, MAX_BUDGET).recipes))


def _of_budget(estimate: Estimate, budget: timedelta) -> BudgetOutlook:
    rehearsal = rehearse(estimate, budget)
    return BudgetOutlook(budget, rehearsal.cost, _expectation(estimate, rehearsal))


def _expectation(estimate: Estimate, rehearsal: Rehearsal) -> Expectation | None:
    """Of the best recipe that was measured among those that the budget reaches."""
    assert estimate.probe is not None, "its probe has ended"
    found: list[Expectation] = []
    for observed in estimate.probe.observations:
        reached = any(_alike(observed.recipe, recipe) for recipe in rehearsal.recipes)
        if reached and observed.expectation is not None:
            found.append(observed.expectation)
    return _best(found)


def _best(found: Sequence[Expectation]) -> Expectation | None:
    return max(found, key=lambda each: each.value, default=None)


def _alike(one: Recipe, other: Recipe) -> bool:
    """Whether a pass over the images does the same."""

    def of(recipe: Recipe) -> tuple[object, ...]:
        rest = recipe.framings, recipe.views, recipe.resolution, recipe.depth, recipe.pretrained
        return recipe.rung, recipe.choose or recipe.backbones, *rest

    return of(one) == of(other)


def _whole(seconds: float) -> timedelta:
    return timedelta(seconds=min(-(-seconds // 1), MAX_BUDGET.total_seconds()))
