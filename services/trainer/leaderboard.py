"""Every trial of a training, and in words why it is served or not."""

import asyncio
from dataclasses import dataclass

from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound
from services.trainer.domain import Model, Trial, scored_trial, served_trial
from services.trainer.planner.comparison import paired_gain
from services.trainer.predictions import read_predictions
from services.trainer.work import WorkState
from services.vision.card import ModelKind
from sightline.plurals import counted

MAX_COMPARED = 50  # trials of a model: comparing detectors takes a while
MAX_REMEMBERED = 10_000
CHANCE = 2.0  # standard errors, below which a difference may be chance


@dataclass(frozen=True, slots=True)
class Entry:
    """A trial and the verdict on it."""

    trial: Trial
    served: bool
    verdict: str


class Leaderboard:
    """Compares trials with the served one on the images that both predicted and neither was trained on."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._gains: dict[tuple[str, str], tuple[float, float, int]] = {}  # blobs never change, so these do not either

    async def of(self, model: Model, trials: list[Trial]) -> list[Entry]:
        """The served trial first, then the others with a result from the best score, then those without."""
        served = served_trial(model, trials)
        ranked = sorted(trials, key=lambda trial: (trial is not served, trial.result is None, -_score(trial)))
        return [
            Entry(trial, trial is served, await self._verdict(trial, served, trials, number < MAX_COMPARED))
            for number, trial in enumerate(ranked)
        ]

    async def _verdict(self, trial: Trial, served: Trial | None, trials: list[Trial], compared: bool) -> str:
        if trial is served:
            return "served"
        if trial.result is None or trial.work.state is not WorkState.SUCCEEDED:
            return _without_result(trial)
        if served is None:
            return "not compared yet"
        if trial.recipe.refit:
            return "not served: it was cut short, or the trial that it repeats did not win"
        if scored_trial(served, trials) is trial:
            return f"repeated on all images by {_id(served)}, which is served"
        if not compared:
            return f"not compared: only the best {MAX_COMPARED} are"
        return await self._difference(trial, scored_trial(served, trials))

    async def _difference(self, trial: Trial, reference: Trial) -> str:
        """How much better or worse the trial is than the one that decides what is served."""
        assert trial.result is not None, "it succeeded"
        assert reference.result is not None, "it has won"
        keys = reference.result.predictions_key, trial.result.predictions_key
        try:
            gain, error, count = await self._gain(*keys)
        except BlobNotFound:
            return "cannot be compared: its predictions are gone"
        if error == float("inf"):
            return f"cannot be compared: both predicted only {counted(count, 'image')}"
        detects = trial.recipe.kind is ModelKind.GENERIC_DETECTOR
        size = f"{abs(gain):.3f} ± {error:.3f} {'mean mAP at IoU 0.50 and 0.75' if detects else 'log loss'}"
        which = (
            f"{'worse' if gain < 0 else 'better'} by {size} than {_id(reference)} on the same {counted(count, 'image')}"
        )
        return which if abs(gain) > CHANCE * error else f"{which}, which may be chance"

    async def _gain(self, old: str, new: str) -> tuple[float, float, int]:
        if (old, new) not in self._gains:
            before, after = await self._blobs.get(old), await self._blobs.get(new)
            if len(self._gains) >= MAX_REMEMBERED:
                self._gains.clear()
            self._gains[old, new] = await asyncio.to_thread(_compared, before, after)
        return self._gains[old, new]


def _compared(old: bytes, new: bytes) -> tuple[float, float, int]:
    return paired_gain(read_predictions(old), read_predictions(new))


def _without_result(trial: Trial) -> str:
    work = trial.work
    match work.state:
        case WorkState.FAILED:
            return f"failed: {work.error.message}" if work.error else "failed"
        case WorkState.STOPPED:
            return f"its allowance of {work.allowance.total_seconds():.0f} s was used up before it had a result"
        case WorkState.CANCELLED:
            return "cancelled"
        case WorkState.RUNNING:
            return "runs"
        case _:
            return "waits for a worker"


def _score(trial: Trial) -> float:
    """For ranking; a refit has no score and comes last among those with a result."""
    return trial.result.score if trial.result else 0.0


def _id(trial: Trial) -> str:
    return trial.name.rpartition("/")[2]
