"""A detector's ladder: the head, short probes of settings, the best settings for long, and once more on all images.

Most of the budget belongs to the end: a probe is tried only where the long schedule still fits after it, since a
setting that is not tried costs less than a schedule cut short.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.trainer.domain import Hyperparameters, Model, StopReason, Trial, scored_trial, served_trial
from services.trainer.planner import detector_recipes as recipes
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.detector_recipes import SearchPoint
from services.trainer.planner.steps import StartTrial
from services.trainer.recipe import BoxStatistics, Depth, Recipe
from services.trainer.work import WorkState
from services.vision.card import WeightsSource
from services.vision.catalogue import DETECTORS

ENOUGH = 0.7  # of a long schedule's cost: so much must be left for it after the first probe
AMPLE = 1.1  # and so much after any other,
TWICE = 2.0  # or after one that promises little
WORTHWHILE, SCRATCH_WORTHWHILE = 0.25, 0.03  # of a long schedule's cost: with less it is not begun
REPEATED = 0.8  # of the cost of what a refit repeats: with less it would be another training
PROBE_SLACK = 0.5  # of what a probe is expected to take: so much longer it may take, at most


def next_trial(model: Model, trials: list[Trial], budget: BudgetView) -> StartTrial | StopReason:
    """The next recipe that fits, or why there is none. All trials have ended."""
    if trials:
        return _Search(model, trials, budget).next()
    recipe = recipes.head(model.hyperparameters)
    available = budget.available(recipe)
    return StartTrial(recipe, available, budget.expected(recipe)) if available > 0 else StopReason.BUDGET_REACHED


def first(wanted: Hyperparameters) -> Recipe:
    """What every budget must pay for."""
    return recipes.head(wanted)


def climb(wanted: Hyperparameters, image_count: int) -> list[Recipe]:
    """What a generous budget pays for, as far as it is known before the images are."""
    head = recipes.head(wanted)
    if wanted.max_rung == 0:
        return [head]
    point = SearchPoint(head.backbones[0], head.resolution, recipes.FEW_RATE)
    long = recipes.long(point, image_count)
    return [head, recipes.probe(point, image_count), long, recipes.refit(long)]


@dataclass(frozen=True, slots=True)
class _Search:
    """What is next, as a function of the trials so far."""

    model: Model
    trials: list[Trial]
    budget: BudgetView

    def next(self) -> StartTrial | StopReason:
        """The next trial, or why there is none."""
        if self.model.hyperparameters.max_rung == 0 or any(trial.recipe.refit for trial in self.trials):
            return self._ended()
        if self._perfect:
            return self._refit() or self._ended()
        probe = self._probe() if self.budget.trials > 1 else None
        return probe or self._long() or self._refit() or self._ended()

    # What the trials have shown

    @property
    def _boxes(self) -> BoxStatistics | None:
        return next((trial.result.boxes for trial in self.trials if trial.result and trial.result.boxes), None)

    @property
    def _few(self) -> bool:
        """Whether some category has too few boxes for the settings of larger sets; so as long as nothing says."""
        return self._boxes is None or self._boxes.fewest < recipes.FEW_BOXES

    @property
    def _small(self) -> bool:
        """Whether the images that validate are worth training on in the end."""
        return self.budget.image_count <= recipes.REFIT_IMAGES

    @property
    def _known(self) -> tuple[str, ...]:
        """The networks to start from published weights, the preferred ones first; none if there are no weights."""
        asked, first = self.model.hyperparameters.backbones, self.trials[0]
        if first.result is None:
            return first.recipe.backbones
        found = set(first.result.backbones)
        if first.result.weights_source is not WeightsSource.RANDOM:
            found |= set(first.recipe.backbones)
        return tuple(name for name in asked or DETECTORS if name in found)

    @property
    def _tuned(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.recipe.rung]

    @property
    def _best(self) -> Trial | None:
        """The trial to go on from: the one that is served if it was tuned, else the best that was."""
        served = served_trial(self.model, self.trials)
        if served is not None and served.recipe.rung:
            return served
        done = [(trial.result.score, trial) for trial in self._tuned if trial.result]
        return max(done, key=lambda pair: pair[0])[1] if done else None

    @property
    def _perfect(self) -> bool:
        """A gain could not be told from the score. A head's on a handful of images does not count."""
        served = served_trial(self.model, self.trials)
        if served is None or (self._small and not served.recipe.rung):
            return False
        shown = scored_trial(served, self.trials)
        return shown.result is not None and shown.result.score >= 1.0

    @property
    def _prior(self) -> SearchPoint:
        """The settings to begin with; once begun with, those."""
        if self._tuned:
            return SearchPoint.of(self._tuned[0].recipe)
        if self._known:
            return SearchPoint(self._known[0], self._side(self._known[0]), recipes.prior_rate(few=self._few))
        backbone = self.trials[0].recipe.backbones[0]
        side = self.model.hyperparameters.resolution or recipes.scratch_side(backbone, self._boxes)
        return SearchPoint(backbone, side, recipes.SCRATCH_RATE, pretrained=False)

    def _side(self, backbone: str) -> int:
        """The input that the boxes ask for, or the largest below it that the budget pays for."""
        if self.model.hyperparameters.resolution:
            return self.model.hyperparameters.resolution
        sides = recipes.smaller_sides(backbone, recipes.prior_side(backbone, self._boxes))
        paid = [side for side in sides if self._spare(SearchPoint(backbone, side, recipes.RATE), ENOUGH) >= 0]
        return paid[-1] if paid else sides[0]

    def _spare(self, point: SearchPoint, share: float) -> float:
        """What is left after a probe of the settings and such a share of a long schedule with them."""
        probe, last = recipes.probe(point, self.budget.image_count), self._last(point)
        return self.budget.available(last) - self.budget.expected(probe) - share * self.budget.expected(last)

    # What may be next

    def _long_recipe(self, point: SearchPoint) -> Recipe:
        return recipes.long(point, self.budget.image_count)

    def _last(self, point: SearchPoint) -> Recipe:
        """What a training with these settings ends with."""
        recipe = self._long_recipe(point)
        return recipes.refit(recipe) if self._small else recipe

    def _candidates(self) -> Iterator[SearchPoint]:
        """The prior's, then one departure from the best at a time: input, rates, the neck alone, larger networks."""
        prior = self._prior
        if not prior.pretrained:
            return  # random weights show nothing in a short schedule
        yield prior
        if not self._tuned:
            return
        best = SearchPoint.of(self._best.recipe) if self._best else prior
        if (side := self._larger(best)) is not None:
            yield replace(best, side=side)
        if self._boxes and self._boxes.count >= recipes.TELLING_BOXES:
            for factor in recipes.RATE_FACTORS:
                yield replace(best, rate=factor * recipes.prior_rate(few=self._few))
            neck = replace(best, depth=Depth.NECK)
            if self._spare(neck, TWICE) >= 0:  # it seldom differs by more than noise
                yield neck
        for backbone in self._known[1 : 1 + recipes.LARGER_NETWORKS]:
            tried = next((trial.recipe for trial in self._tuned if trial.recipe.backbones == (backbone,)), None)
            yield SearchPoint.of(tried) if tried else SearchPoint(backbone, self._side(backbone), best.rate)

    def _larger(self, best: SearchPoint) -> int | None:
        """The next larger input, if that may show more: the boxes are small, and none as large did worse."""
        if self.model.hyperparameters.resolution or not self._boxes:
            return None
        tried = [trial.recipe.resolution for trial in self._tuned if trial.recipe.backbones == (best.backbone,)]
        return recipes.larger_side(best.side, self._boxes) if max(tried, default=0) <= best.side else None

    def _untried(self) -> Iterator[SearchPoint]:
        done = {trial.recipe.name for trial in self.trials}
        for point in self._candidates():
            short, long = recipes.probe(point, self.budget.image_count), self._long_recipe(point)
            if not done & {short.name, long.name}:
                yield point

    def _probe(self) -> StartTrial | None:
        """The first settings that are untried and leave enough for a long schedule with them."""
        share = AMPLE if self._tuned else ENOUGH
        for point in self._untried():
            recipe = recipes.probe(point, self.budget.image_count)
            expected = self.budget.expected(recipe)
            spare = self._spare(point, share)
            if spare >= 0:
                return StartTrial(recipe, expected + min(spare, PROBE_SLACK * expected), expected)
        return None

    def _long(self) -> StartTrial | None:
        """The best settings for long, validated; where not both that and a refit fit, the refit goes first."""
        best = self._best
        recipe = self._long_recipe(SearchPoint.of(best.recipe) if best else self._prior)
        if any(trial.recipe.name == recipe.name for trial in self.trials):
            return None
        expected, available = self.budget.expected(recipe), self.budget.available(recipe)
        held = self.budget.expected(recipes.refit(recipe)) if self._refits(best) else 0.0
        if held and (self.budget.trials < 2 or available < expected + held):
            return None
        if available - held < (WORTHWHILE if recipe.pretrained else SCRATCH_WORTHWHILE) * expected:
            return None
        return StartTrial(recipe, available - held, expected, best.name if best else "")

    def _refits(self, best: Trial | None) -> bool:
        """Whether the best trial may be repeated on all images: only what is served has shown that it is the best."""
        served = self.model.served
        return best is not None and self._small and served is not None and served.trial == best.name

    def _refit(self) -> StartTrial | None:
        """The best trial's settings once more on all images: for long, unless that has been shown to be worse."""
        best = self._best
        if best is None or not self._refits(best):
            return None
        long = self._long_recipe(SearchPoint.of(best.recipe))
        outdone = any(
            trial.recipe.name == long.name and trial.work.state is WorkState.SUCCEEDED for trial in self.trials
        )
        recipe = recipes.refit(best.recipe if outdone else long)
        available = self.budget.available(recipe)
        if available < REPEATED * self.budget.expected(recipes.refit(best.recipe)):
            return None
        return StartTrial(recipe, available, self.budget.expected(recipe), best.name)

    def _ended(self) -> StopReason:
        if self._perfect:
            return StopReason.CONVERGED
        if self.model.hyperparameters.max_rung == 0:
            return StopReason.LADDER_COMPLETED
        longest = [trial for trial in self._tuned if recipes.is_long(trial.recipe, self.budget.image_count)]
        if any(trial.result and trial.result.epochs < trial.recipe.max_epochs for trial in longest):
            return StopReason.BUDGET_REACHED  # a schedule was cut to fit
        return StopReason.LADDER_COMPLETED if longest and not any(self._untried()) else StopReason.BUDGET_REACHED
