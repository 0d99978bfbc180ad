"""Which of a model's trials is the best: decided on the same images, in favour of the cheaper within the noise."""

import asyncio

from services.kit.blobs import Blobs
from services.trainer.domain import Trial, TrialResult
from services.trainer.predictions import paired_gain, read_predictions
from services.trainer.work import WorkState

MAX_REMEMBERED = 10_000


class Selection:
    """Compares trials by what they predicted for images that they had not trained on."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._verdicts: dict[tuple[str, str], bool] = {}  # blobs never change, so neither does a comparison

    async def best(self, trials: list[Trial]) -> Trial | None:
        """Of the trials that brought a bundle, the first that no later one beats by more than a standard error.

        Trials ascend by cost, so this is the one-standard-error rule of Breiman et al. (1984), on paired images. It
        only ever moves to a later trial when one is added.
        """
        best: tuple[Trial, TrialResult] | None = None
        for trial in trials:
            if trial.result is None or trial.work.state is not WorkState.SUCCEEDED:
                continue
            if best is None or await self._beats(trial.result.predictions_key, best[1].predictions_key):
                best = trial, trial.result
        return best[0] if best else None

    async def _beats(self, new: str, old: str) -> bool:
        if (new, old) not in self._verdicts:
            before, after = await self._blobs.get(old), await self._blobs.get(new)
            if len(self._verdicts) >= MAX_REMEMBERED:
                self._verdicts.clear()
            self._verdicts[new, old] = await asyncio.to_thread(_beats, before, after)
        return self._verdicts[new, old]


def _beats(old: bytes, new: bytes) -> bool:
    gain, error, _ = paired_gain(read_predictions(old), read_predictions(new))
    return gain > error
