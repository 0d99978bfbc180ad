"""Reading annotation files: what is counted before any work is done on it."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from services.dataset import plan
from services.dataset.domain import CHECK, DatasetRecord
from services.dataset.findings import FindingLog
from services.dataset.jobs import publish_chunk
from services.dataset.plan import Reading, make_plan
from services.dataset.settings import DatasetSettings
from services.dataset.store import get_rows
from services.kit.clock import ManualClock
from services.kit.errors import DatasetAnnotationsInvalid, QuotaExceeded, SightlineError
from services.kit.memory import MemoryQueue
from services.vision.snapshot import AnnotationKind
from tests.support.datasets import COCO, URI, World, coco

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
    monkeypatch.setattr(plan, "read", lambda *_, **__: pytest.fail("parsed"))
    error = await refusal({"images": [{"id": n} for n in range(400)]})
    assert isinstance(error, QuotaExceeded)
    assert "JSON objects" in error.message
    assert "401 is more than the limit of 315 (SIGHTLINE_MAX_ANNOTATIONS)" in error.message


async def test_chunks_have_their_size_across_files_and_across_the_blobs_that_they_are_stored_in() -> None:
    world, reading = World(settings=DatasetSettings(chunk_images=2)), Reading(FindingLog(10))
    uris: list[str] = []
    for number, count in enumerate([3, 0, 1, 71]):
        images = [{"id": n, "file_name": f"{n}.jpg" if n != 7 else ".."} for n in range(count)]
        marks = [{"image_id": n, "id": 1000 + n, "category_id": 1} for n in reversed(range(count))]
        uris.append(f"s3://sightline/uploads/u{number}/train.json")
        await world.blobs.put(f"uploads/u{number}/train.json", coco(images, marks))
    files = replace(record(), annotation_file_uris=tuple(uris))
    with ThreadPoolExecutor(1) as executor:
        made = await make_plan(world.context(executor), world.settings, files, reading)
    chunks = [await get_rows(world.blobs, made.prefix, number) for number in range(made.chunk_count)]
    assert [len(chunk) for chunk in chunks] == [2] * 37
    assert (made.image_count, made.refused_count) == (75, 1)
    found = [row for chunk in chunks for row in chunk]
    assert [row.snapshot_id for row in found] == [n for n in range(75) if n != 4 + 7]
    assert found[3].key == "uploads/u2/0.jpg"
    assert {row.key.partition("/u3/")[2] for row in found[4:]} == {f"{n}.jpg" for n in range(71) if n != 7}
    assert all([mark.id for mark in row.marks] == [1000 + row.id] for row in found)


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
