"""Which images are kept, for how long, and that keeping them holds up nobody."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pytest

from services.kit.clock import ManualClock
from services.kit.errors import FeedbackNotKept, Unavailable
from services.kit.memory import MemoryBlobs
from services.kit.tasks import alongside
from services.kit.telemetry import MemoryTelemetry
from services.predictor import feedback, metrics
from services.predictor.domain import Bundle
from services.predictor.feedback import Answered, Feedback, Rules
from services.predictor.feedback_store import FeedbackStore, Kept
from services.vision.decode import ImageInfo
from tests.support.waiting import eventually
from tests.unit.predictor.support import card, make_image

DAYS = timedelta(days=30)


class BrokenBlobs(MemoryBlobs):
    """A store that takes nothing."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def put(self, key: str, data: bytes) -> None:
        raise self.error


class Case:
    """Feedback about a model of three categories."""

    def __init__(self, blobs: MemoryBlobs | None = None, **rules: Any) -> None:
        values: dict[str, Any] = {"below": 0.6, "share": 1.0, "max_images": 100, "max_bytes": 10**6, **rules}
        self.blobs, self.clock, self.telemetry = blobs or MemoryBlobs(), ManualClock(), MemoryTelemetry()
        self.store = FeedbackStore(self.blobs, DAYS)
        self.feedback = Feedback(self.store, Rules(**values), self.clock, self.telemetry, Random(1))
        self.seed = 0

    def consider(self, top: float = 0.5, model: str = "models/m", size: int = 1000, seed: int | None = None) -> None:
        """An answer whose highest probability is `top`, for another image than before unless there is a seed."""
        self.seed += 1
        pixels = np.asarray(make_image(64, 64, seed=self.seed if seed is None else seed))
        info = ImageInfo("JPEG", 640, 480, 1, 640, 480, animated=False)
        output = np.array([top, 1 - top, 0], np.float32)
        bundle = Bundle(model, "v1", "")
        self.feedback.consider(Answered(bundle, card(), output, info, (pixels,), bytes(size)))

    def counted(self, result: str) -> float:
        return self.telemetry.value(metrics.FEEDBACK_IMAGES, result=result)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with alongside(writes=self.feedback.run()):
            yield

    async def written(self, *results: str) -> None:
        """Returns once nothing waits to be written."""
        await eventually(lambda: self.feedback._queued_bytes == 0)

    async def keys(self, prefix: str = "") -> list[str]:
        return [blob.key async for blob in self.blobs.list(prefix)]

    async def latest(self, model: str = "models/m") -> list[Kept]:
        return await self.store.latest(model, self.clock.now())


async def test_an_uncertain_answers_image_is_kept_with_the_answer_beside_it():
    case = Case()
    async with case.running():
        case.consider(0.59)
        case.consider(0.6)
        case.consider(0.9)
        await case.written()
    image, record = await case.keys()
    day = f"{case.clock.now():%Y-%m-%d}"
    assert image.startswith(f"feedback/{day}/default/m/")
    assert record == image.removesuffix(".jpg") + ".json"
    (kept,) = await case.latest()
    assert (kept.model_name, kept.model_version, kept.width, kept.height) == ("models/m", "v1", 640, 480)
    assert kept.confidence == pytest.approx(0.59)
    assert kept.uncertainty == pytest.approx(0.82)
    assert [mark.name for mark in kept.marks] == ["cat", "dog", "owl"]
    assert await case.store.image(kept) == bytes(1000)
    assert case.counted("kept") == 1


async def test_nothing_is_kept_by_default_and_asking_for_it_says_how_to_switch_it_on():
    case = Case(below=0.0)
    async with case.running():
        case.consider(0.34)
        await case.written()
    assert await case.keys() == []
    with pytest.raises(FeedbackNotKept, match="SIGHTLINE_FEEDBACK_BELOW"):
        await anext(case.feedback.suggest("models/m", 10))


async def test_of_a_share_about_as_many_are_kept():
    case = Case(share=0.25)
    async with case.running():
        for _ in range(100):
            case.consider()
            await case.written()
    assert 15 <= case.counted("kept") <= 35


@pytest.mark.parametrize(("limits", "kept"), [({"max_images": 3}, 3), ({"max_bytes": 4500}, 4)])
async def test_a_project_keeps_no_more_than_its_limit_a_day(limits: dict[str, Any], kept: int):
    case = Case(**limits)
    async with case.running():
        for _ in range(6):
            case.consider()
            await case.written()
        assert (case.counted("kept"), case.counted("limit")) == (kept, 6 - kept)
        case.consider(model="projects/acme/models/m")
        await case.written()
        assert case.counted("kept") == kept + 1, "another project has its own"
        case.clock.advance(86_400)
        case.consider()
        await case.written()
        assert case.counted("kept") == kept + 2, "the next day is another one"
    assert len(await case.latest()) == kept + 1
    assert [one.model_name for one in await case.latest("projects/acme/models/m")] == ["projects/acme/models/m"]


async def test_what_waits_to_be_written_is_bounded_and_the_rest_dropped_and_counted(monkeypatch: pytest.MonkeyPatch):
    case = Case()
    for _ in range(feedback.QUEUED_IMAGES + 5):
        case.consider()
    assert case.counted("full") == 5
    async with case.running():
        await case.written()
    assert case.counted("kept") == feedback.QUEUED_IMAGES
    monkeypatch.setattr(feedback, "QUEUED_BYTES", 2500)
    for _ in range(4):
        case.consider()
    assert case.counted("full") == 7


@pytest.mark.parametrize("error", [Unavailable(what="The store", problem="gone"), RuntimeError("a bug")])
async def test_a_store_that_takes_nothing_is_counted_and_the_next_image_is_tried(error: Exception):
    case = Case(BrokenBlobs(error))
    async with case.running():
        case.consider()
        case.consider()
        await case.written()
    assert case.counted("failed") == 2


async def test_an_image_that_looks_like_one_that_was_kept_is_not_kept_again_for_the_same_model():
    case = Case()
    async with case.running():
        for model in ("models/m", "models/m", "models/other"):
            case.consider(model=model, seed=7)
            await case.written()
    assert (case.counted("kept"), case.counted("repeated")) == (2, 1)


async def test_what_is_older_than_the_retention_time_is_removed_even_if_nothing_is_kept_any_more():
    case = Case()
    case.clock = case.feedback._clock = ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    async with case.running():
        for _ in range(3):
            case.consider()
            await case.written()
            case.clock.advance(86_400)
    await case.blobs.put("feedback/strange", b"")
    await case.blobs.put("models/m/bundle", b"")
    case.clock.advance(27 * 86_400 - 1)
    off = Feedback(case.store, Rules(0.0, 1.0, 1, 1), case.clock, case.telemetry)
    await off.sweep()
    assert len(await case.keys("feedback/2026")) == 6
    case.clock.advance(1)
    assert len(await case.latest()) == 2
    await asyncio.gather(off.sweep(), case.feedback.sweep())
    assert {key[:19] for key in await case.keys("feedback/2026")} == {"feedback/2026-03-02", "feedback/2026-03-03"}
    case.clock.advance(10 * 86_400)
    await off.sweep()
    assert await case.keys() == ["feedback/strange", "models/m/bundle"]


async def test_suggestions_are_ranked_and_pass_over_what_has_gone_or_cannot_be_read():
    case = Case()
    async with case.running():
        for top in (0.58, 0.5, 0.55):
            case.consider(top, size=int(1000 * top))
            await case.written()
    found = [(round(kept.confidence, 2), len(image)) async for kept, image in case.feedback.suggest("models/m", 2)]
    assert found[0] == (0.5, 500)
    assert len(found) == 2
    first, second, _ = await case.latest()
    await case.blobs.delete(f"{first.key}.jpg")
    await case.blobs.put(f"{second.key}.json", b"{}")
    assert len([kept async for kept, _ in case.feedback.suggest("models/m", 10)]) == 1
    assert [kept async for kept, _ in case.feedback.suggest("models/other", 10)] == []
