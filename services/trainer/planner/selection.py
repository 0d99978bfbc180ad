"""Which of a model's trials is the best: compared on the same images."""

import asyncio

from services.kit.blobs import Blobs
from services.trainer.domain import Trial, TrialResult
from services.trainer.planner.comparison import paired_gain
from services.trainer.planner.detector_recipes import improves_on
from services.trainer.predictions import read_predictions
from services.trainer.recipe import Recipe
from services.trainer.work import WorkState
from services.vision.card import ModelKind

MAX_REMEMBERED = 10_000
MARGIN = 1.0  # standard errors by which a more expensive trial must win
# A detector is expected to be better if it repeats the best settings for longer, follows a head alone, is a more
# accurate network, or sees a larger input; so is a classifier's head on more features. It loses only if it is worse by
# more than the noise.
EXPECTED_MARGIN = -1.0
WHOLE = 0.8  # of the repeated trial's epochs: a refit cut shorter differs too much from what was measured


class Selection:
    """Compares trials by their predictions for images that they were not trained on."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._decisions: dict[tuple[str, str], bool] = {}  # blobs never change, so comparisons do not either

    async def best(self, trials: list[Trial]) -> Trial | None:
        """The first trial with a bundle that no later one beats by more than the noise.

        Classifiers are compared by log loss, detectors by mAP, on paired images, with the one-standard-error rule of
        Breiman et al. (1984). A refit has no images to compare it on: it wins if the trial that it repeats has won,
        unless it was cut short. An added trial can only move the choice to itself.
        """
        best: tuple[Trial, TrialResult] | None = None
        for trial in trials:
            if trial.result is None or trial.work.state is not WorkState.SUCCEEDED:
                continue
            if best is None or await self._beats((trial, trial.result), best):
                best = trial, trial.result
        return best[0] if best else None

    async def _beats(self, later: tuple[Trial, TrialResult], best: tuple[Trial, TrialResult]) -> bool:
        if later[0].recipe.refit:
            return later[0].parent_trial == best[0].name and later[1].epochs >= WHOLE * best[1].epochs
        new, old, required = later[1].predictions_key, best[1].predictions_key, margin(later[0], best[0])
        if (new, old) not in self._decisions:
            before, after = await self._blobs.get(old), await self._blobs.get(new)
            if len(self._decisions) >= MAX_REMEMBERED:
                self._decisions.clear()
            self._decisions[new, old] = await asyncio.to_thread(_beats, before, after, required)
        return self._decisions[new, old]


def classifier_margin(later: Recipe) -> float:
    """Standard errors by which a classifier must be better than those before it."""
    return MARGIN if later.rung else EXPECTED_MARGIN


def margin(later: Trial, best: Trial) -> float:
    """Standard errors by which the later trial must be better; negative if it is expected to be."""
    if later.recipe.kind is ModelKind.GENERIC_CLASSIFIER:
        return classifier_margin(later.recipe)
    return EXPECTED_MARGIN if follows(later, best) or improves_on(later.recipe, best.recipe) else MARGIN


def follows(later: Trial, best: Trial) -> bool:
    """Whether a detector repeats the best settings for longer, or tunes more than a head alone."""
    return later.parent_trial == best.name or later.recipe.rung > best.recipe.rung


def _beats(old: bytes, new: bytes, margin: float) -> bool:
    gain, error, _ = paired_gain(read_predictions(old), read_predictions(new))
    return gain > margin * error
