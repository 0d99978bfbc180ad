"""What a training needs and may achieve, from a probe: its least budget, one that pays for the ladder, and others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from services.trainer.domain import MAX_BUDGET
from services.trainer.estimate import Estimate, Expectation
from services.trainer.planner.needs import minimum_seconds, suggested_seconds
from services.trainer.planner.prospect import Prospect
from services.trainer.planner.rehearsal import Rehearsal, rehearse
from services.trainer.recipe import Recipe


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
    found = Prospect.of(msgspec.structs.replace(draft, probe=tabled(draft).probe))
    enough = suggested_seconds(found, minimum_seconds(found))
    return msgspec.structs.replace(draft, recipes=_distinct(rehearse(found, timedelta(seconds=enough)).recipes))


def tabled(estimate: Estimate) -> Prospect:
    """The training by the table instead of a probe."""
    model = estimate.model
    assert model.training is not None, "an estimate has its snapshot"
    return Prospect.tabled(model, model.training.image_count, model.test.image_count if model.test else 0)


def _distinct(recipes: Iterable[Recipe]) -> tuple[Recipe, ...]:
    found: list[Recipe] = []
    for recipe in recipes:
        if not any(_alike(recipe, other) for other in found):
            found.append(recipe)
    return tuple(found)


def outlook(estimate: Estimate) -> Outlook:
    """The budgets, in whole seconds rounded up, and what to expect of each; the probe has ended."""
    prospect = Prospect.of(estimate)
    minimum = max(minimum_seconds(tabled(estimate)), minimum_seconds(prospect))  # CreateModel refuses less
    suggested = suggested_seconds(prospect, minimum)
    spread = sorted({minimum, (minimum * suggested) ** 0.5, suggested, 2 * suggested})
    return Outlook(
        minimum=_whole(minimum),
        suggested=_whole(suggested),
        budgets=tuple(_of_budget(prospect, budget) for budget in dict.fromkeys(map(_whole, spread))),
    )


def _of_budget(prospect: Prospect, budget: timedelta) -> BudgetOutlook:
    rehearsal = rehearse(prospect, budget)
    return BudgetOutlook(budget, rehearsal.cost, _expectation(prospect, rehearsal))


def _expectation(prospect: Prospect, rehearsal: Rehearsal) -> Expectation | None:
    """Of the best recipe that was measured among those that the budget reaches."""
    found: list[Expectation] = []
    for observed in prospect.probe.observations:
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
