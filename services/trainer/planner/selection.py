"""Which of a model's trials is the best: decided on the same images, in favour of the cheaper within the noise."""

import asyncio

from services.kit.blobs import Blobs
from services.trainer.domain import Trial, TrialResult
from services.trainer.planner.comparison import paired_gain
from services.trainer.predictions import read_predictions
from services.trainer.work import WorkState
from services.vision.card import ModelKind

MAX_REMEMBERED = 10_000
# Standard errors by which a dearer trial must win. A fine-tuning stops where it does best on the very images that it
# is compared on, so its gain there is flattered.
MARGIN, TUNED_MARGIN = 1.0, 2.0
# Of a detector that repeats the best settings for longer, or follows a mere head, nothing else is expected than that
# it is better: it stays out only if it is worse beyond the noise.
EXPECTED_MARGIN = -1.0
WHOLE = 0.8  # of the epochs of the trial that it repeats: a refit cut off before stands for nothing that was measured


class Selection:
    """Compares trials by what they predicted for images that they had not trained on."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._decisions: dict[tuple[str, str], bool] = {}  # blobs never change, so neither does a comparison

    async def best(self, trials: list[Trial]) -> Trial | None:
        """Of the trials that brought a bundle, the first that no later one beats by more than the noise.

        Trials ascend by cost, so this is the one-standard-error rule of Breiman et al. (1984), on paired images, and
        twice as strict with fine-tunings of classifiers. A refit, which left no image to compare it on, follows the
        trial that it repeats, unless it was cut off. It only ever moves to a later trial when one is added.
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
        new, old, margin = later[1].predictions_key, best[1].predictions_key, _margin(later[0], best[0])
        if (new, old) not in self._decisions:
            before, after = await self._blobs.get(old), await self._blobs.get(new)
            if len(self._decisions) >= MAX_REMEMBERED:
                self._decisions.clear()
            self._decisions[new, old] = await asyncio.to_thread(_beats, before, after, margin)
        return self._decisions[new, old]


def _margin(later: Trial, best: Trial) -> float:
    """Standard errors by which the later trial must be better."""
    if later.recipe.kind is ModelKind.GENERIC_CLASSIFIER:
        return TUNED_MARGIN if later.recipe.rung else MARGIN
    expected = later.parent_trial == best.name or (later.recipe.rung > best.recipe.rung)
    return EXPECTED_MARGIN if expected else MARGIN


def _beats(old: bytes, new: bytes, margin: float) -> bool:
    gain, error, _ = paired_gain(read_predictions(old), read_predictions(new))
    return gain > margin * error
