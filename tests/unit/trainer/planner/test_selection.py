"""The choice between trials: compared on the same images."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from services.kit.memory import MemoryBlobs
from services.trainer.domain import Trial
from services.trainer.planner.plan import plan
from services.trainer.planner.selection import Selection
from services.trainer.planner.steps import StartTrial
from services.trainer.recipe import Depth
from services.trainer.work import Work
from services.vision.card import ModelKind
from tests.unit.trainer.support import (
    START,
    TTL,
    detections,
    detector_result,
    predictions,
    result,
    snapshot,
    training,
)


def trial(number: int) -> Trial:
    step = plan(training(), [], None)
    assert isinstance(step, StartTrial)
    return Trial(
        name=f"models/m/trials/t{number:03d}",
        model_uid="uid1",
        number=number,
        training=snapshot(),
        recipe=step.recipe,
        holdout_fraction=0.2,
        seed=0,
        work=Work(create_time=START, allowance=timedelta(seconds=10)).taken("t", "w", START, TTL),
        update_time=START,
    )


async def succeeded(blobs: MemoryBlobs, number: int, right: int, count: int = 100) -> Trial:
    found = trial(number)
    brought = result(found, right)
    await blobs.put(brought.predictions_key, msgspec.msgpack.encode(predictions(right, count)))
    return replace(found, work=found.work.succeeded(START, timedelta(seconds=1)), result=brought)


async def test_no_trial_is_best_if_none_succeeded() -> None:
    found = trial(0)
    assert await Selection(MemoryBlobs()).best([found, replace(found, work=found.work.stopped(START))]) is None


async def test_a_head_on_more_features_is_served_unless_it_is_worse_by_more_than_the_noise() -> None:
    blobs = MemoryBlobs()
    first, more, worse = [await succeeded(blobs, number, right) for number, right in enumerate((80, 80, 60))]
    assert more.result
    within = tuple(loss + (0.2 if number % 2 else -0.19) for number, loss in enumerate(predictions(80).log_losses))
    noisy = replace(predictions(80), log_losses=within)
    await blobs.put(more.result.predictions_key, msgspec.msgpack.encode(noisy))
    assert await Selection(blobs).best([first, more]) == more
    assert await Selection(blobs).best([first, more, worse]) == more


async def test_of_two_heads_that_predict_the_same_the_cheaper_one_is_served() -> None:
    blobs = MemoryBlobs()
    trials = [await succeeded(blobs, 0, 80), await succeeded(blobs, 1, 80)]
    assert await Selection(blobs).best(trials) == trials[0]


async def test_a_fine_tuning_must_gain_more_than_the_noise() -> None:
    blobs = MemoryBlobs()
    linear, equal, better = [await succeeded(blobs, number, right) for number, right in enumerate((80, 81, 84))]
    tuned = [replace(trial, recipe=replace(trial.recipe, rung=1)) for trial in (equal, better)]
    assert await Selection(blobs).best([linear, tuned[0]]) == linear
    assert await Selection(blobs).best([linear, *tuned]) == tuned[1]


async def test_only_images_that_both_predicted_count() -> None:
    blobs = MemoryBlobs()
    trials = [await succeeded(blobs, 0, 10, 100), await succeeded(blobs, 1, 9, 10)]
    assert await Selection(blobs).best(trials) == trials[0]


async def test_predictions_are_read_from_the_store_once_per_comparison() -> None:
    blobs = MemoryBlobs()
    trials = [await succeeded(blobs, 0, 80), await succeeded(blobs, 1, 95)]
    selection = Selection(blobs)
    assert await selection.best(trials) == trials[1]
    for found in trials:
        assert found.result
        await blobs.delete(found.result.predictions_key)
    assert await selection.best(trials) == trials[1]


async def detector(blobs: MemoryBlobs, number: int, right: int, **recipe: Any) -> Trial:
    """A detector's trial; by default of the head."""
    parent_trial = recipe.pop("parent_trial", "")
    kind = {"kind": ModelKind.GENERIC_DETECTOR, "backbones": ("yolox_nano",)}
    found = trial(number)
    found = replace(found, recipe=msgspec.structs.replace(found.recipe, **(kind | recipe)), parent_trial=parent_trial)
    brought = detector_result(found, right)
    await blobs.put(brought.predictions_key, msgspec.msgpack.encode(detections(right)))
    return replace(found, work=found.work.succeeded(START, timedelta(seconds=1)), result=brought)


async def test_a_tuned_detector_follows_the_head_unless_it_is_worse_beyond_the_noise() -> None:
    blobs = MemoryBlobs()
    head, equal, worse = [await detector(blobs, n, right, rung=min(n, 1)) for n, right in enumerate((80, 80, 40))]
    assert await Selection(blobs).best([head, equal]) == equal
    assert await Selection(blobs).best([head, worse]) == head


async def test_other_settings_must_be_better_by_more_than_the_noise() -> None:
    blobs = MemoryBlobs()
    tuned, other, better = [await detector(blobs, n, right, rung=1) for n, right in enumerate((80, 81, 95))]
    assert await Selection(blobs).best([tuned, other]) == tuned
    assert await Selection(blobs).best([tuned, other, better]) == better


@pytest.mark.parametrize(
    ("changes", "follows"),
    [
        ({"resolution": 640}, True),
        ({"backbones": ("dfine_nano",), "resolution": 640}, True),
        ({"resolution": 320}, False),
        ({"resolution": 640, "learning_rate": 2e-3}, False),
        ({"backbones": ("ssdlite320_mobilenet_v3_large",), "resolution": 640}, False),
        ({"resolution": 640, "pretrained": False}, False),
        ({"resolution": 640, "depth": Depth.NECK}, False),
    ],
)
async def test_what_is_known_to_be_better_decides_a_tie_and_nothing_more(
    changes: dict[str, Any], follows: bool
) -> None:
    blobs = MemoryBlobs()
    first = await detector(blobs, 0, 80, rung=1, resolution=416)
    equal, worse = [await detector(blobs, n, right, rung=1, **changes) for n, right in ((1, 80), (2, 40))]
    assert await Selection(blobs).best([first, equal]) == (equal if follows else first)
    assert await Selection(blobs).best([first, worse]) == first


async def test_the_best_settings_for_longer_are_served_unless_they_are_worse() -> None:
    blobs = MemoryBlobs()
    tuned = await detector(blobs, 0, 80, rung=1)
    longer = await detector(blobs, 1, 80, rung=1, parent_trial=tuned.name)
    spoilt = await detector(blobs, 2, 40, rung=1, parent_trial=tuned.name)
    assert await Selection(blobs).best([tuned, longer]) == longer
    assert await Selection(blobs).best([tuned, spoilt]) == tuned


async def test_a_refit_follows_the_best_trial_only_and_is_not_compared() -> None:
    blobs = MemoryBlobs()
    tuned = await detector(blobs, 0, 80, rung=1)
    refit = await detector(blobs, 1, 0, rung=1, refit=True, parent_trial=tuned.name)
    other = await detector(blobs, 2, 0, rung=1, refit=True, parent_trial="models/m/trials/t009")
    assert await Selection(blobs).best([tuned, refit]) == refit
    assert await Selection(blobs).best([tuned, other]) == tuned


async def test_a_refit_that_was_cut_short_is_not_served() -> None:
    blobs = MemoryBlobs()
    tuned = await detector(blobs, 0, 80, rung=1, max_epochs=20)
    short = await detector(blobs, 1, 0, rung=1, refit=True, max_epochs=9, parent_trial=tuned.name)
    assert await Selection(blobs).best([tuned, short]) == tuned
