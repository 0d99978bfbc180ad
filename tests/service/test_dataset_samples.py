"""Images of a dataset to be looked at, as ListDatasetSamples answers."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode

from services.dataset import samples
from sightline.v1 import dataset_service_pb2 as service_pb
from tests.service.test_dataset_comparison import numbered, registered
from tests.support.datasets import World, refused, running


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


async def listed(world: World, **fields: Any) -> service_pb.ListDatasetSamplesResponse:
    """All pages as one."""
    whole = service_pb.ListDatasetSamplesResponse()
    while True:
        request = service_pb.ListDatasetSamplesRequest(
            parent="datasets/pets", page_token=whole.next_page_token, **fields
        )
        answer = await world.stub.ListDatasetSamples(request)
        whole.MergeFrom(answer)
        whole.next_page_token = answer.next_page_token
        if not answer.next_page_token:
            return whole


async def test_so_many_of_each_category_are_the_same_at_every_call(world: World) -> None:
    files = numbered(1, 9, "a") | numbered(21, 9, "b") | numbered(41, 2, "c")
    await registered(world, "pets", files)
    answer = await listed(world, per_category=3)
    assert sorted(sample.category for sample in answer.samples) == ["a"] * 3 + ["b"] * 3 + ["c"] * 2
    assert all(sample.image == files[sample.file][0] for sample in answer.samples)
    ids = [sample.image_id for sample in answer.samples]
    assert ids == sorted(ids)
    assert answer == await listed(world, per_category=3, page_size=3)
    assert len(answer.sizes) == 20


async def test_images_are_found_by_their_ids_and_others_are_skipped(world: World) -> None:
    await registered(world, "pets", numbered(1, 9, "a"), kind="OBJECT_DETECTION")
    answer = await listed(world, image_ids=[7, 2, 99])
    assert [sample.file for sample in answer.samples] == ["2.png", "7.png"]
    (box,) = answer.samples[0].boxes
    assert (box.x, box.y, box.width, box.height, box.category) == (1, 1, 40, 40, "a")
    assert (answer.samples[0].width, answer.samples[0].category) == (96, "")


async def test_a_page_ends_before_its_images_are_too_large(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files = numbered(1, 6, "a")
    await registered(world, "pets", files)
    largest = max(len(data) for data, _ in files.values())
    monkeypatch.setattr(samples, "PAGE_BYTES", largest)
    request = service_pb.ListDatasetSamplesRequest(parent="datasets/pets", per_category=6)
    first = await world.stub.ListDatasetSamples(request)
    assert len(first.samples) == 1
    whole = await listed(world, per_category=6)
    assert {hashlib.sha256(one.image).digest() for one in whole.samples} == {
        hashlib.sha256(data).digest() for data, _ in files.values()
    }
    monkeypatch.setattr(samples, "PAGE_BYTES", 10)
    assert [one.image for one in (await listed(world, per_category=6)).samples] == [b""] * 6


async def test_what_cannot_be_shown_is_refused(world: World) -> None:
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", "datasets/pets"):
        await listed(world)
    await registered(world, "pets", numbered(1, 3, "a"))
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "21 is not within 0 and 20"):
        await listed(world, per_category=21)
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "201 ids are more than 200"):
        await listed(world, image_ids=range(201))
