"""Reading annotation files: what is counted before any work is done on it."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from services.dataset import coco
from services.dataset.domain import CHECK, DatasetRecord
from services.dataset.findings import FindingLog
from services.dataset.jobs import publish_chunk
from services.dataset.plan import Reading, make_plan
from services.dataset.settings import DatasetSettings
from services.kit.clock import ManualClock
from services.kit.errors import DatasetAnnotationsInvalid, QuotaExceeded, SightlineError
from services.kit.memory import MemoryQueue
from services.vision.snapshot import AnnotationKind
from tests.support.datasets import COCO, URI, World

LIMITS = DatasetSettings(max_classification_images=50, max_annotations=50, max_classification_categories=5)


def record() -> DatasetRecord:
    now = ManualClock().now()
    return DatasetRecord("datasets/d", "u", AnnotationKind.IMAGE_CLASSIFICATION, (URI,), now, now)


async def refusal(file: Mapping[str, object]) -> SightlineError:
    """Why the file is refused; its entries must not have been looked at."""
    world, reading = World(settings=LIMITS), Reading(FindingLog(10))
    await world.blobs.put(COCO, json.dumps(file).encode())
    with ThreadPoolExecutor(1) as executor, pytest.raises(SightlineError) as refused:
        await make_plan(world.context(executor), world.settings, record(), reading)
    assert not reading.categories.names
    return refused.value


async def test_far_too_many_categories_are_refused_before_they_are_merged() -> None:
    """Merging a million names took hours."""
    error = await refusal({"images": [], "categories": [{"id": n, "name": f"c{n}"} for n in range(51)]})
    assert isinstance(error, DatasetAnnotationsInvalid)
    assert "51 categories are more than the limit of 50" in error.message
    assert "(SIGHTLINE_MAX_CLASSIFICATION_CATEGORIES)" in error.message


async def test_too_many_images_or_annotations_are_refused_before_they_are_checked() -> None:
    categories = [{"id": 1, "name": "c"}]
    error = await refusal({"images": [{"id": 1}] * 51, "categories": categories})
    assert isinstance(error, QuotaExceeded)
    assert "51 is more than the limit of 50 (SIGHTLINE_MAX_CLASSIFICATION_IMAGES)" in error.message
    error = await refusal({"images": [], "annotations": [{"image_id": 1}] * 51, "categories": categories})
    assert isinstance(error, QuotaExceeded)
    assert "51 is more than the limit of 50 (SIGHTLINE_MAX_ANNOTATIONS)" in error.message


async def test_a_file_of_far_too_many_objects_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "parse", lambda *_: pytest.fail("parsed"))
    error = await refusal({"images": [{"id": n} for n in range(400)]})
    assert isinstance(error, QuotaExceeded)
    assert "JSON objects" in error.message
    assert "401 is more than the limit of 315 (SIGHTLINE_MAX_ANNOTATIONS)" in error.message


async def test_a_chunk_that_is_announced_again_within_two_minutes_is_one_job() -> None:
    """A chunk that failed was announced at every stall: one illegal key made 74 failed jobs."""
    clock = ManualClock()
    queue, now = MemoryQueue(clock), clock.now()
    taken = record().taken("w", now, timedelta(seconds=20))
    for _ in range(5):
        await publish_chunk(queue, taken, 3)
    assert await queue.depth(CHECK) == 1
    await publish_chunk(queue, taken, 4)
    assert await queue.depth(CHECK) == 2
