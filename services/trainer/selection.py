"""Which of a model's trials is the best: decided on the same images, in favour of the cheaper within the noise."""

from services.kit.blobs import Blobs
from services.trainer.domain import Trial
from services.trainer.predictions import Predictions, paired_gain, read_predictions
from services.trainer.work import WorkState

MAX_CACHED = 64


class Selection:
    """Compares trials by what they predicted for images that they had not trained on."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._cache: dict[str, Predictions] = {}

    async def best(self, trials: list[Trial]) -> Trial | None:
        """Of the trials that brought a bundle, the first that no later one beats by more than a standard error.

        Trials ascend by cost, so this is the one-standard-error rule of Breiman et al. (1984), on paired images.
        """
        best: Trial | None = None
        for trial in trials:
            if trial.result is None or trial.work.state is not WorkState.SUCCEEDED:
                continue
            if best is None or await self._beats(trial, best):
                best = trial
        return best

    async def _beats(self, new: Trial, old: Trial) -> bool:
        gain, error, _ = paired_gain(await self._predictions(old), await self._predictions(new))
        return gain > error

    async def _predictions(self, trial: Trial) -> Predictions:
        assert trial.result is not None, "only results are compared"
        key = trial.result.predictions_key
        if key not in self._cache:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[key] = read_predictions(await self._blobs.get(key))
        return self._cache[key]
