"""A detector's ladder: the head, short probes of settings, a long run with the best settings, a refit on all images.

Most of the budget is for the end: a probe runs only if the long schedule still fits after it, as skipping a setting
costs less accuracy than cutting the schedule short. What the probes leave lengthens the long schedule.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.trainer.domain import Hyperparameters, Model, StopReason, Trial, scored_trial, served_trial
from services.trainer.planner import detector_recipes as recipes
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.detector_recipes import SearchPoint
from services.trainer.planner.steps import StartTrial, Wait
from services.trainer.recipe import BoxStatistics, Depth, Recipe
from services.trainer.work import WorkState
from services.vision.card import WeightsSource
from services.vision.catalogue import DETECTORS

ENOUGH = 0.8  # of a long schedule's cost: what must be left for it after the first probe
WHOLE = 1.0  # for an input larger than the network's own: with fewer epochs, more pixels are worth less
AMPLE = 1.1  # after any other probe
TWICE = 2.0  # after a probe with little promise
WORTHWHILE, SCRATCH_WORTHWHILE = 0.25, 0.03  # of a long schedule's cost: it does not start with less
REPEATED = 0.8  # of the cost of the repeated trial: with less, a refit would be a different training
LENGTHENED = 0.8  # of what is left: the share that a lengthened schedule may be expected to take
PROBE_SLACK = 0.5  # of a probe's expected time: the most that it may take beyond that


def next_trial(model: Model, trials: list[Trial], budget: BudgetView) -> StartTrial | StopReason | Wait:
    """The next recipe that fits and need not wait for a trial that runs, or why there is none."""
    if trials and not trials[0].work.ended:
        return Wait()  # it tells what the boxes are like
    if trials:
        return _Search(model, trials, budget).next()
    recipe = recipes.head(model.wanted)
    available = budget.available(recipe)
    return StartTrial(recipe, available, budget.expected(recipe)) if available > 0 else StopReason.BUDGET_REACHED


def first(wanted: Hyperparameters) -> Recipe:
    """The recipe that every budget must pay for."""
    return recipes.head(wanted)


def climb(wanted: Hyperparameters, image_count: int) -> list[Recipe]:
    """What a generous budget pays for, as far as that is known without the images."""
    head = recipes.head(wanted)
    if wanted.max_rung == 0:
        return [head]
    side = wanted.resolution or max(head.resolution, recipes.USUAL_SIDE)
    point = SearchPoint(head.backbones[0], side, head.learning_rate)
    long = recipes.long(point, image_count)
    return [head, recipes.probe(point, image_count), long, recipes.refit(long)]


@dataclass(frozen=True, slots=True)
class _Search:
    """The next step, as a function of the trials so far."""

    model: Model
    trials: list[Trial]
    budget: BudgetView

    def next(self) -> StartTrial | StopReason | Wait:
        """The next trial, or why there is none."""
        if self.model.hyperparameters.max_rung == 0 or self._refitted:
            return self._ended()
        if self._perfect:
            return Wait() if self.budget.running else self._refit() or self._ended()
        if probe := self._probe() if self.budget.trials > 1 else None:
            return probe
        if self.budget.running:
            return self._refit_beside() or Wait()
        return self._long() or self._refit() or self._ended()

    # What the trials have shown.

    @property
    def _boxes(self) -> BoxStatistics | None:
        return next((trial.result.boxes for trial in self.trials if trial.result and trial.result.boxes), None)

    @property
    def _gentle(self) -> bool:
        """Whether a gentle rate suits: some category has few boxes, and the frozen network finds such objects already.

        True until both are known.
        """
        first = self.trials[0].result
        few = self._boxes is None or self._boxes.fewest < recipes.FEW_BOXES
        return few and (first is None or first.score >= recipes.KNOWN_SCORE)

    @property
    def _small(self) -> bool:
        """Whether the validation images are worth a refit that trains on them too."""
        return self.budget.image_count <= recipes.REFIT_IMAGES

    @property
    def _known(self) -> tuple[str, ...]:
        """The networks with pretrained weights, preferred ones first; empty if there are none."""
        brought = self.model.base.networks if self.model.base else ()
        asked = self.model.hyperparameters.backbones or tuple(dict.fromkeys((*brought, *DETECTORS)))
        first = self.trials[0]
        if first.result is None:
            return first.recipe.backbones
        found = set(first.result.backbones)
        if first.result.weights_source is not WeightsSource.RANDOM:
            found |= set(first.recipe.backbones)
        return tuple(name for name in asked if name in found and self._affordable(name))

    def _affordable(self, backbone: str) -> bool:
        """Whether predictions keep to their limit; a network other than the first is not tried below its own size."""
        own = DETECTORS[backbone].rule.size if backbone not in self.trials[0].recipe.backbones else recipes.LEAST_SIDE
        return recipes.affordable(backbone, self.model.hyperparameters, own)

    @property
    def _tuned(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.recipe.rung]

    @property
    def _best(self) -> Trial | None:
        """The trial to continue from: the served one if it was tuned, else the tuned one with the best score."""
        served = served_trial(self.model, self.trials)
        if served is not None and served.recipe.rung:
            return served
        done = [(trial.result.score, trial) for trial in self._tuned if trial.result]
        return max(done, key=lambda pair: pair[0])[1] if done else None

    @property
    def _refitted(self) -> bool:
        """Whether the best trial, or one that still runs, has its refit."""
        best, refits = self._best, [trial for trial in self.trials if trial.recipe.refit]
        return any(
            not trial.work.ended or not best or best.name in (trial.name, trial.parent_trial) for trial in refits
        )

    @property
    def _perfect(self) -> bool:
        """Whether the score leaves no room for a gain. A head's score on few images does not count."""
        served = served_trial(self.model, self.trials)
        if served is None or (self._small and not served.recipe.rung):
            return False
        shown = scored_trial(served, self.trials)
        return shown.result is not None and shown.result.score >= 1.0

    @property
    def _prior(self) -> SearchPoint:
        """The settings that the search starts with; once it has started, those it started with."""
        if self._tuned:
            return SearchPoint.of(self._tuned[0].recipe)
        if self._known:
            return self._start(self._known[0])
        backbone = self.trials[0].recipe.backbones[0]
        wanted = self.model.hyperparameters
        side = wanted.resolution or min(recipes.scratch_side(backbone, self._boxes), self._most_side(backbone))
        return SearchPoint(backbone, side, recipes.SCRATCH_RATE, pretrained=False)

    def _start(self, backbone: str) -> SearchPoint:
        """The settings that a network starts with."""
        return SearchPoint(backbone, self._side(backbone), recipes.rates(backbone, gentle=self._gentle)[0])

    def _side(self, backbone: str) -> int:
        """The input side that suits boxes and images, or the largest below it that the budget pays for."""
        if self.model.hyperparameters.resolution:
            return self.model.hyperparameters.resolution
        most = self._most_side(backbone)
        sides = recipes.smaller_sides(backbone, min(recipes.prior_side(backbone, self._boxes), most))
        paid = [side for side in sides if self._spare(SearchPoint(backbone, side, recipes.RATE), WHOLE) >= 0]
        return paid[-1] if paid else sides[0]

    def _most_side(self, backbone: str) -> int:
        return recipes.most_side(backbone, self.model.hyperparameters)

    def _spare(self, point: SearchPoint, share: float) -> float:
        """Seconds left after a probe of the settings and that share of a long schedule with them, or with the best."""
        probe, points = recipes.probe(point, self.budget.image_count), [point]
        if self._best:
            points.append(SearchPoint.of(self._best.recipe))  # which the probe may not beat
        last = max((self._last(each) for each in points), key=self.budget.expected)
        return self.budget.available(last) - self.budget.expected(probe) - share * self.budget.expected(last)

    # What may come next.

    def _long_recipe(self, point: SearchPoint, times: float = 1.0) -> Recipe:
        return recipes.long(point, self.budget.image_count, times)

    def _last(self, point: SearchPoint) -> Recipe:
        """The last recipe of a training with these settings."""
        recipe = self._long_recipe(point)
        return recipes.refit(recipe) if self._small else recipe

    def _candidates(self) -> Iterator[SearchPoint]:
        """The prior, then one change to the best settings at a time: network, input, rate, neck only."""
        prior = self._prior
        if not prior.pretrained:
            return  # a short schedule shows nothing from random weights
        yield prior
        if not self._tuned:
            return
        for backbone in self._known[1 : 1 + recipes.LARGER_NETWORKS]:
            tried = next((trial.recipe for trial in self._tuned if trial.recipe.backbones == (backbone,)), None)
            yield SearchPoint.of(tried) if tried else self._start(backbone)
        best = SearchPoint.of(self._best.recipe) if self._best else prior
        larger, smaller = self._other_sides(best)
        if larger is not None:
            yield replace(best, side=larger)
        for rate in recipes.rates(best.backbone, gentle=self._gentle)[1:]:
            yield replace(best, rate=rate)
        if smaller is not None:
            yield replace(best, side=smaller)
        if self._boxes and self._boxes.count >= recipes.NECK_BOXES:
            neck = replace(best, depth=Depth.NECK)
            if self._spare(neck, TWICE) >= 0:  # it rarely differs by more than the noise
                yield neck

    def _other_sides(self, best: SearchPoint) -> tuple[int | None, int | None]:
        """The next larger and the smaller input, each None if one in that direction was tried or would not help."""
        if self.model.hyperparameters.resolution or not self._boxes:
            return None, None
        tried = [trial.recipe.resolution for trial in self._tuned if trial.recipe.backbones == (best.backbone,)]
        larger = recipes.larger_side(best.side, self._boxes) if max(tried, default=0) <= best.side else None
        if larger is not None and larger > self._most_side(best.backbone):
            larger = None
        smaller = recipes.smaller_side(best.backbone, best.side, self._boxes)
        return larger, smaller if min(tried, default=best.side) >= best.side else None

    def _untried(self) -> Iterator[SearchPoint]:
        done = {trial.recipe.name for trial in self.trials}
        for point in self._candidates():
            short, long = recipes.probe(point, self.budget.image_count), self._long_recipe(point)
            if not done & {short.name, long.name}:
                yield point

    def _probe(self) -> StartTrial | None:
        """The first untried settings that leave enough time for a long schedule with them."""
        share = AMPLE if self._tuned else ENOUGH
        for point in self._untried():
            recipe = recipes.probe(point, self.budget.image_count)
            expected = self.budget.expected(recipe)
            spare = self._spare(point, share)
            if spare >= 0:
                return StartTrial(recipe, expected + min(spare, PROBE_SLACK * expected), expected)
        return None

    def _long(self) -> StartTrial | None:
        """A long, validated run with the best settings; if that and a refit do not both fit, only the refit runs."""
        best = self._best
        point = SearchPoint.of(best.recipe) if best else self._prior
        recipe = self._long_recipe(point)
        if self._was_tried(recipe):
            return None
        refits = self._refits(best)
        if refits and self.budget.trials < 2:
            return None
        available = self.budget.available(recipe)
        times = self._lengthened(point, (recipe, recipes.refit(recipe)) if refits else (recipe,))
        recipe = self._long_recipe(point, times)
        expected = self.budget.expected(recipe)
        held = self.budget.expected(recipes.refit(recipe)) if refits else 0.0
        if held and available < expected + held:
            return None
        if available - held < (WORTHWHILE if recipe.pretrained else SCRATCH_WORTHWHILE) * expected:
            return None
        beside = self.budget.shared and held  # the refit may run at the same time: the two divide what is left
        allowance = available * expected / (expected + held) if beside else available - held
        return StartTrial(recipe, allowance, expected, best.name if best else "")

    def _lengthened(self, point: SearchPoint, ahead: tuple[Recipe, ...]) -> float:
        """How many times as long the schedules ahead may be, so that they use what the probes have left."""
        if not point.pretrained or ahead[0].patience:
            return 1.0  # a schedule from random weights is as long as it is useful, and patience ends one that is not
        cost = sum(self.budget.expected(recipe) for recipe in ahead)
        return min(recipes.LONGEST, max(1.0, LENGTHENED * self.budget.available(ahead[0]) / cost))

    def _refits(self, best: Trial | None) -> bool:
        """Whether the best trial may be refitted on all images: only the served one has proved to be the best."""
        served = self.model.served
        return best is not None and self._small and served is not None and served.trial == best.name

    def _refit(self) -> StartTrial | None:
        """A refit with the best trial's settings on all images: the long schedule, unless that proved worse."""
        best = self._best
        if best is None or not self._refits(best):
            return None
        point = SearchPoint.of(best.recipe)
        long = self._long_recipe(point)
        done = next((trial for trial in self.trials if trial.recipe.name == long.name), None)
        if (done is not None and done.work.state is WorkState.SUCCEEDED) or self._was_tried(recipes.refit(long)):
            recipe = recipes.refit(best.recipe)  # the long one, or what has outdone it
        else:
            recipe = recipes.refit(self._long_recipe(point, self._lengthened(point, (recipes.refit(long),))))
        if self._was_tried(recipe):
            return None
        available = self.budget.available(recipe)
        if available < REPEATED * self.budget.expected(recipes.refit(best.recipe)):
            return None
        return StartTrial(recipe, available, self.budget.expected(recipe), best.name)

    def _refit_beside(self) -> StartTrial | None:
        """The refit of a long run that is the only trial running: it counts if the long run proves to be the best."""
        running = [trial for trial in self.trials if not trial.work.ended]
        if len(running) > 1 or not self._small or not recipes.is_long(running[0].recipe, self.budget.image_count):
            return None
        recipe = recipes.refit(running[0].recipe)
        available, expected = self.budget.available(recipe), self.budget.expected(recipe)
        if self.budget.trials < 1 or self._was_tried(recipe) or available < REPEATED * expected:
            return None
        return StartTrial(recipe, available, expected, running[0].name)

    def _was_tried(self, recipe: Recipe) -> bool:
        return any(trial.recipe.name == recipe.name for trial in self.trials)

    def _ended(self) -> StopReason:
        if self._perfect:
            return StopReason.CONVERGED
        if self.model.hyperparameters.max_rung == 0:
            return StopReason.LADDER_COMPLETED
        longest = [trial for trial in self._tuned if recipes.is_long(trial.recipe, self.budget.image_count)]
        if any(trial.result and trial.result.epochs < trial.recipe.max_epochs for trial in longest):
            return StopReason.BUDGET_REACHED  # a schedule was cut short
        return StopReason.LADDER_COMPLETED if longest and not any(self._untried()) else StopReason.BUDGET_REACHED
