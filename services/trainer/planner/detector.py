"""A detector's ladder: the head, short probes of settings, a long run with the best settings, a refit on all images.

Most of the budget is for the end: a probe runs only if the long schedule still fits after it, as skipping a setting
costs less accuracy than cutting the schedule short. What the probes leave lengthens the long schedule.
"""

from dataclasses import dataclass

from msgspec.structs import replace

from services.trainer.domain import Hyperparameters, Model, StopReason, Trial
from services.trainer.planner import detector_recipes as recipes
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.detector_findings import Findings
from services.trainer.planner.detector_recipes import SearchPoint
from services.trainer.planner.detector_settings import Settings
from services.trainer.planner.steps import StartTrial, Wait
from services.trainer.recipe import Recipe
from services.trainer.work import WorkState

ENOUGH = 0.8  # of a long schedule's cost: what must be left for it after the first probe
AMPLE = 1.1  # after any other probe
WORTHWHILE, SCRATCH_WORTHWHILE = 0.25, 0.03  # of a long schedule's cost: it does not start with less
SPARE_EPOCHS = 2  # times the fewest epochs of a schedule that may start after a head, which is easily outdone
REPEATED = 0.8  # of the cost of the repeated trial: with less, a refit would be a different training
LENGTHENED = 0.8  # of what is left: the share that a lengthened schedule may be expected to take
PROBE_SLACK = 0.5  # of a probe's expected time: the most that it may take beyond that


def next_trial(model: Model, trials: list[Trial], budget: BudgetView) -> StartTrial | StopReason | Wait:
    """The next recipe that fits and need not wait for a trial that runs, or why there is none."""
    if trials and not trials[0].work.ended:
        return Wait()  # it tells what the boxes are like
    if trials:
        seen = Findings(model, trials, budget)
        return _Search(seen, Settings(seen, budget), budget).next()
    recipe = recipes.head(model.wanted)
    available = budget.available(recipe)
    return StartTrial(recipe, available, budget.expected(recipe)) if available > 0 else StopReason.BUDGET_REACHED


def first(wanted: Hyperparameters) -> Recipe:
    """The recipe that every budget must pay for."""
    return recipes.head(wanted)


def rungs(ran: tuple[Recipe, ...], image_count: int) -> frozenset[object]:
    """The input of the first probe, and whether a long run and a refit followed; the search in between is optional."""
    long = any(recipes.is_long(recipe, image_count) for recipe in ran)
    refit = any(recipe.refit for recipe in ran)
    sides = [(recipe.backbones, recipe.resolution) for recipe in ran if recipe.rung]
    return frozenset(each for each in (*sides[:1], "long" * long, "refit" * refit) if each)


@dataclass(frozen=True, slots=True)
class _Search:
    """The next step, as a function of the trials so far."""

    seen: Findings
    settings: Settings
    budget: BudgetView

    def next(self) -> StartTrial | StopReason | Wait:
        """The next trial, or why there is none."""
        if self.seen.model.hyperparameters.max_rung == 0 or self.seen.refitted:
            return self._ended()
        if self.seen.perfect:
            return Wait() if self.budget.running else self._refit() or self._ended()
        if probe := self._probe() if self.budget.trials > 1 else None:
            return probe
        if self.budget.running:
            return self._refit_beside() or Wait()
        return self._long() or self._refit() or self._ended()

    def _probe(self) -> StartTrial | None:
        """The first untried settings that leave enough time for a long schedule with them."""
        share = AMPLE if self.seen.tuned else ENOUGH
        for point in self.settings.untried():
            recipe = recipes.probe(point, self.budget.image_count)
            expected = self.budget.expected(recipe)
            spare = self.settings.spare(point, share)
            if spare >= 0:
                return StartTrial(recipe, expected + min(spare, PROBE_SLACK * expected), expected)
        return None

    def _long(self) -> StartTrial | None:
        """A long, validated run with the best settings; if that and a refit do not both fit, only the refit runs."""
        best = self.seen.best
        point = SearchPoint.of(best.recipe) if best else self.settings.prior
        recipe = self.settings.long_recipe(point)
        if self.seen.was_tried(recipe):
            return None
        refits = self._refits(best)
        if refits and self.budget.trials < 2:
            return None
        available = self.budget.available(recipe)
        times = self._lengthened(point, (recipe, recipes.refit(recipe)) if refits else (recipe,))
        recipe = self.settings.long_recipe(point, times)
        expected = self.budget.expected(recipe)
        held = self.budget.expected(recipes.refit(recipe)) if refits else 0.0
        if held and available < expected + held:
            return None
        if available - held < self._worthwhile(recipe) * expected:
            return None
        beside = self.budget.shared and held  # the refit may run at the same time: the two divide what is left
        allowance = available * expected / (expected + held) if beside else available - held
        return StartTrial(recipe, allowance, expected, best.name if best else "")

    def _worthwhile(self, recipe: Recipe) -> float:
        """The least share of a long schedule that is worth its cost."""
        if not recipe.pretrained:
            return SCRATCH_WORTHWHILE
        return WORTHWHILE if self.seen.tuned else min(WORTHWHILE, SPARE_EPOCHS * recipe.min_epochs / recipe.max_epochs)

    def _lengthened(self, point: SearchPoint, ahead: tuple[Recipe, ...]) -> float:
        """How many times as long the schedules ahead may be, so that they use what the probes have left."""
        if not point.pretrained or ahead[0].patience:
            return 1.0  # a schedule from random weights is as long as it is useful, and patience ends one that is not
        cost = sum(self.budget.expected(recipe) for recipe in ahead)
        return min(recipes.LONGEST, max(1.0, LENGTHENED * self.budget.available(ahead[0]) / cost))

    def _refits(self, best: Trial | None) -> bool:
        """Whether the best trial may be refitted on all images: only the served one has proved to be the best."""
        served = self.seen.model.served
        return best is not None and self.seen.small and served is not None and served.trial == best.name

    def _refit(self) -> StartTrial | None:
        """A refit with the best trial's settings on all images: the long schedule, unless that proved worse."""
        best = self.seen.best
        if best is None or not self._refits(best):
            return None
        point = SearchPoint.of(best.recipe)
        long = self.settings.long_recipe(point)
        done = next((trial for trial in self.seen.trials if trial.recipe.name == long.name), None)
        repeated = recipes.refit(_as_run(best))
        if (done is not None and done.work.state is WorkState.SUCCEEDED) or self.seen.was_tried(recipes.refit(long)):
            recipe = repeated  # the long one, or what has outdone it
        else:
            recipe = recipes.refit(self.settings.long_recipe(point, self._lengthened(point, (recipes.refit(long),))))
        if self.seen.was_tried(recipe):
            return None
        available = self.budget.available(recipe)
        if available < REPEATED * self.budget.expected(repeated):
            return None
        return StartTrial(recipe, available, self.budget.expected(recipe), best.name)

    def _refit_beside(self) -> StartTrial | None:
        """The refit of a long run that is the only trial running: it counts if the long run proves to be the best."""
        running = [trial for trial in self.seen.trials if not trial.work.ended]
        if len(running) > 1 or not self.seen.small or not recipes.is_long(running[0].recipe, self.budget.image_count):
            return None
        recipe = recipes.refit(running[0].recipe)
        available, expected = self.budget.available(recipe), self.budget.expected(recipe)
        if self.budget.trials < 1 or self.seen.was_tried(recipe) or available < REPEATED * expected:
            return None
        return StartTrial(recipe, available, expected, running[0].name)

    def _ended(self) -> StopReason:
        if self.seen.perfect:
            return StopReason.CONVERGED
        if self.seen.model.hyperparameters.max_rung == 0:
            return StopReason.LADDER_COMPLETED
        longest = [trial for trial in self.seen.tuned if recipes.is_long(trial.recipe, self.budget.image_count)]
        if any(trial.result and trial.result.epochs < trial.recipe.max_epochs for trial in longest):
            return StopReason.BUDGET_REACHED  # a schedule was cut short
        return (
            StopReason.LADDER_COMPLETED if longest and not any(self.settings.untried()) else StopReason.BUDGET_REACHED
        )


def _as_run(trial: Trial) -> Recipe:
    """The trial's recipe with as many epochs as it had time for."""
    epochs = trial.result.epochs if trial.result else None
    return replace(trial.recipe, max_epochs=min(epochs or trial.recipe.max_epochs, trial.recipe.max_epochs))
