"""What a detector's trials have shown so far: boxes, networks within reach, the best settings."""

from dataclasses import dataclass

from services.trainer.domain import Model, Trial, scored_trial, served_trial
from services.trainer.planner import detector_recipes as recipes
from services.trainer.planner.budget import BudgetView
from services.trainer.recipe import BoxStatistics, Recipe
from services.vision.card import WeightsSource
from services.vision.catalogue import DETECTORS


@dataclass(frozen=True, slots=True)
class Findings:
    """Facts for the next decision; there is at least one trial."""

    model: Model
    trials: list[Trial]
    budget: BudgetView

    @property
    def boxes(self) -> BoxStatistics | None:
        """Of all images, once a trial has counted them."""
        return next((trial.result.boxes for trial in self.trials if trial.result and trial.result.boxes), None)

    @property
    def gentle(self) -> bool:
        """Whether a gentle rate suits: some category has few boxes, and the frozen network finds such objects already.

        True until both are known.
        """
        first = self.trials[0].result
        few = self.boxes is None or self.boxes.fewest < recipes.FEW_BOXES
        return few and (first is None or first.score >= recipes.KNOWN_SCORE)

    @property
    def small(self) -> bool:
        """Whether the validation images are worth a refit that trains on them too."""
        return self.budget.image_count <= recipes.REFIT_IMAGES

    @property
    def known(self) -> tuple[str, ...]:
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
    def tuned(self) -> list[Trial]:
        """The trials that trained more than a head."""
        return [trial for trial in self.trials if trial.recipe.rung]

    @property
    def best(self) -> Trial | None:
        """The trial to continue from: the served one if it was tuned, else the tuned one with the best score."""
        served = served_trial(self.model, self.trials)
        if served is not None and served.recipe.rung:
            return served
        done = [(trial.result.score, trial) for trial in self.tuned if trial.result]
        return max(done, key=lambda pair: pair[0])[1] if done else None

    @property
    def refitted(self) -> bool:
        """Whether the best trial, or one that still runs, has its refit."""
        best, refits = self.best, [trial for trial in self.trials if trial.recipe.refit]
        return any(
            not trial.work.ended or not best or best.name in (trial.name, trial.parent_trial) for trial in refits
        )

    @property
    def perfect(self) -> bool:
        """Whether the score leaves no room for a gain. A head's score on few images does not count."""
        served = served_trial(self.model, self.trials)
        if served is None or (self.small and not served.recipe.rung):
            return False
        shown = scored_trial(served, self.trials)
        return shown.result is not None and shown.result.score >= 1.0

    def was_tried(self, recipe: Recipe) -> bool:
        """Whether there is a trial of the recipe, whatever became of it."""
        return any(trial.recipe.name == recipe.name for trial in self.trials)
