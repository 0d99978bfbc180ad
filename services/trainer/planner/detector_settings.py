"""Which settings a detector's search tries next, and whether the budget pays for a long schedule after them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.trainer.planner import detector_recipes as recipes
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.detector_findings import Findings
from services.trainer.planner.detector_recipes import SearchPoint
from services.trainer.recipe import Depth, Recipe

WHOLE = 1.0  # of a long schedule's cost, for an input larger than the network's own: more pixels need all epochs
TWICE = 2.0  # after a probe with little promise


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings to try, as a function of the findings."""

    seen: Findings
    budget: BudgetView

    @property
    def prior(self) -> SearchPoint:
        """The settings that the search starts with; once it has started, those it started with."""
        if self.seen.tuned:
            return SearchPoint.of(self.seen.tuned[0].recipe)
        if self.seen.known:
            return self._start(self.seen.known[0])
        backbone = self.seen.trials[0].recipe.backbones[0]
        wanted = self.seen.model.hyperparameters
        side = wanted.resolution or min(recipes.scratch_side(backbone, self.seen.boxes), self._most_side(backbone))
        return SearchPoint(backbone, side, recipes.SCRATCH_RATE, pretrained=False)

    def _start(self, backbone: str) -> SearchPoint:
        """The settings that a network starts with."""
        return SearchPoint(backbone, self._side(backbone), recipes.rates(backbone, gentle=self.seen.gentle)[0])

    def _side(self, backbone: str) -> int:
        """The input side that suits boxes and images, or the largest below it that the budget pays for."""
        if self.seen.model.hyperparameters.resolution:
            return self.seen.model.hyperparameters.resolution
        most = self._most_side(backbone)
        sides = recipes.smaller_sides(backbone, min(recipes.prior_side(backbone, self.seen.boxes), most))
        paid = [side for side in sides if self.spare(SearchPoint(backbone, side, recipes.RATE), WHOLE) >= 0]
        return paid[-1] if paid else sides[0]

    def _most_side(self, backbone: str) -> int:
        return recipes.most_side(backbone, self.seen.model.hyperparameters)

    def spare(self, point: SearchPoint, share: float) -> float:
        """Seconds left after a probe of the settings and that share of a long schedule with them, or with the best."""
        probe, points = recipes.probe(point, self.budget.image_count), [point]
        if self.seen.best:
            points.append(SearchPoint.of(self.seen.best.recipe))  # which the probe may not beat
        last = max((self._last(each) for each in points), key=self.budget.expected)
        return self.budget.available(last) - self.budget.expected(probe) - share * self.budget.expected(last)

    def long_recipe(self, point: SearchPoint, times: float = 1.0) -> Recipe:
        """The long schedule with the settings, or `times` as long."""
        return recipes.long(point, self.budget.image_count, times)

    def _last(self, point: SearchPoint) -> Recipe:
        """The last recipe of a training with these settings."""
        recipe = self.long_recipe(point)
        return recipes.refit(recipe) if self.seen.small else recipe

    def _candidates(self) -> Iterator[SearchPoint]:
        """The prior, then one change to the best settings at a time: network, input, rate, neck only."""
        prior = self.prior
        if not prior.pretrained:
            return  # a short schedule shows nothing from random weights
        yield prior
        if not self.seen.tuned:
            return
        for backbone in self.seen.known[1 : 1 + recipes.LARGER_NETWORKS]:
            tried = next((trial.recipe for trial in self.seen.tuned if trial.recipe.backbones == (backbone,)), None)
            yield SearchPoint.of(tried) if tried else self._start(backbone)
        best = SearchPoint.of(self.seen.best.recipe) if self.seen.best else prior
        larger, smaller = self._other_sides(best)
        if larger is not None:
            yield replace(best, side=larger)
        for rate in recipes.rates(best.backbone, gentle=self.seen.gentle)[1:]:
            yield replace(best, rate=rate)
        if smaller is not None:
            yield replace(best, side=smaller)
        if self.seen.boxes and self.seen.boxes.count >= recipes.NECK_BOXES:
            neck = replace(best, depth=Depth.NECK)
            if self.spare(neck, TWICE) >= 0:  # it rarely differs by more than the noise
                yield neck

    def _other_sides(self, best: SearchPoint) -> tuple[int | None, int | None]:
        """The next larger and the smaller input, each None if one in that direction was tried or would not help."""
        if self.seen.model.hyperparameters.resolution or not self.seen.boxes:
            return None, None
        tried = [trial.recipe.resolution for trial in self.seen.tuned if trial.recipe.backbones == (best.backbone,)]
        larger = recipes.larger_side(best.side, self.seen.boxes) if max(tried, default=0) <= best.side else None
        if larger is not None and larger > self._most_side(best.backbone):
            larger = None
        smaller = recipes.smaller_side(best.backbone, best.side, self.seen.boxes)
        return larger, smaller if min(tried, default=best.side) >= best.side else None

    def untried(self) -> Iterator[SearchPoint]:
        """The settings that no trial has had yet, in the order in which they should be tried."""
        done = {trial.recipe.name for trial in self.seen.trials}
        for point in self._candidates():
            short, long = recipes.probe(point, self.budget.image_count), self.long_recipe(point)
            if not done & {short.name, long.name}:
                yield point
