"""Every trial, and why it is served or not, in words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from services.kit.errors import Failure
from services.kit.memory import MemoryBlobs
from services.trainer.domain import Model, Served, Trial
from services.trainer.leaderboard import Leaderboard
from services.trainer.predictions import AnyPredictions, Predictions
from services.trainer.recipe import Recipe
from services.trainer.work import Work
from services.vision.card import ModelKind
from tests.unit.trainer.support import (
    START,
    TTL,
    detections,
    detector_result,
    performance,
    predictions,
    result,
    snapshot,
    training,
)

SECONDS = timedelta(seconds=60)


def trial(number: int, **recipe: Any) -> Trial:
    name = f"models/m/trials/t{number:03d}"
    return Trial(
        name=name, model_uid="uid1", number=number, training=snapshot(), holdout_fraction=0.2, seed=0,
        recipe=replace(Recipe(name=f"recipe {number}", rung=0, backbones=("mobilenet_v2",)), **recipe),
        work=Work(create_time=START, allowance=SECONDS).taken(name, "w", START, TTL), update_time=START,
        parent_trial="models/m/trials/t000" if recipe.get("refit") else "",
    )  # fmt: skip


def losing(loss: float, spread: float = 0.1) -> Predictions:
    """Predictions with this mean log loss."""
    losses = loss + spread * np.random.default_rng(round(1000 * loss)).standard_normal(100)
    return replace(predictions(80, 100), log_losses=tuple(losses.tolist()))


async def judged(model: Model, trials: list[Trial], *files: AnyPredictions | None) -> dict[str, str]:
    """The verdicts by trial, in the leaderboard's order."""
    blobs = MemoryBlobs()
    for one, file in zip(trials, files, strict=True):
        if one.result and file is not None:
            await blobs.put(one.result.predictions_key, msgspec.msgpack.encode(file))
    return {entry.trial.name[-4:]: entry.verdict for entry in await Leaderboard(blobs).of(model, trials)}


def done(one: Trial, right: int = 80) -> Trial:
    brought = (detector_result if one.recipe.kind is ModelKind.GENERIC_DETECTOR else result)(one, right)
    return replace(one, work=one.work.succeeded(START, SECONDS), result=brought)


def serving(one: Trial, **changes: Any) -> Model:
    return training(
        served=Served(trial=one.name, version="v", bundle_key="b", performance=performance(), performance_key="p"),
        **changes,
    )


async def test_trials_with_results_are_compared_with_the_served_one_on_the_same_images() -> None:
    trials = [done(trial(0)), done(trial(1), 90), done(trial(2), 70)]
    verdicts = await judged(serving(trials[1]), trials, losing(0.52), losing(0.40), losing(0.405, spread=0.5))
    assert list(verdicts) == ["t001", "t000", "t002"], "the served one first, then by score"
    assert verdicts["t001"] == "served"
    assert verdicts["t000"].startswith("worse by 0.1")
    assert verdicts["t000"].endswith("log loss than t001 on the same 100 images")
    assert verdicts["t002"].endswith("which may be chance")


async def test_a_trial_without_a_result_says_what_became_of_it() -> None:
    failed, stopped, cancelled, running = (trial(number) for number in range(1, 5))
    diverged = Failure(9, "diverged", "The loss became nan.")
    trials = [
        done(trial(0)),
        replace(failed, work=failed.work.failed(START, diverged)),
        replace(stopped, work=stopped.work.stopped(START)),
        replace(cancelled, work=cancelled.work.cancelled(START)),
        running,
        replace(trial(5), work=Work(create_time=START, allowance=SECONDS)),
    ]
    verdicts = await judged(serving(trials[0]), trials, losing(0.5), *(None,) * 5)
    assert verdicts == {
        "t000": "served",
        "t001": "failed: The loss became nan.",
        "t002": "its allowance of 60 s was used up before it had a result",
        "t003": "cancelled",
        "t004": "runs",
        "t005": "waits for a worker",
    }


async def test_detectors_are_compared_by_mean_average_precision_and_a_refit_by_what_it_repeats() -> None:
    kind = ModelKind.GENERIC_DETECTOR
    yolox: dict[str, Any] = {"kind": kind, "backbones": ("yolox_nano",)}
    first, other, refit = trial(0, **yolox), trial(1, **yolox), trial(2, **yolox, refit=True)
    trials = [done(first, 90), done(other, 40), done(refit, 0)]
    files = detections(90), detections(40), detections(0, 0)
    verdicts = await judged(serving(trials[2], model_kind=kind), trials, *files)
    assert verdicts["t000"] == "repeated on all images by t002, which is served"
    assert verdicts["t001"].startswith("worse by ")
    assert "mean mAP at IoU 0.50 and 0.75 than t000 on the same 100 images" in verdicts["t001"]
    verdicts = await judged(serving(trials[0], model_kind=kind), trials, *files)
    assert verdicts["t002"].startswith("not served: it was cut short")


@pytest.mark.parametrize("lost", [True, False])
async def test_what_cannot_be_compared_says_so(lost: bool) -> None:
    trials = [done(trial(0)), done(trial(1))]
    apart = replace(losing(0.4), image_ids=tuple(range(1000, 1100)))
    verdicts = await judged(serving(trials[0]), trials, losing(0.5), None if lost else apart)
    assert verdicts["t001"].startswith(
        "cannot be compared: " + ("its predictions" if lost else "both predicted only 0")
    )


async def test_before_there_is_a_bundle_nothing_is_compared() -> None:
    assert await judged(training(), [done(trial(0))], losing(0.5)) == {"t000": "not compared yet"}
