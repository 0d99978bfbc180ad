"""Versions of a dataset: registered under its name, each with its snapshot, and what differs between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from PIL import Image

from services.dataset.ingest import give_up
from sightline.client.client_aio import AsyncClient
from sightline.client.errors import DatasetAlreadyExists, InvalidRequest
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from tests.support.datasets import World, coco, make_image, refused, running, tagged


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    addresses = Addresses(dataset=world.address, trainer=world.address, predictor=world.address)
    async with AsyncClient(addresses, Credentials(), progress=False) as client:
        yield client


async def revise(world: World, count: int, **fields: Any) -> pb.Dataset:
    """Registers so many images as the next version, and lets them be checked."""
    key = f"uploads/v{count}/train.json"
    await world.put(*tagged(count), key=key)
    request = world.request(uris=[f"s3://sightline/{key}"], new_version=True, **fields)
    await world.stub.CreateDataset(request)
    await world.work()
    return await world.get(view=pb.Dataset.FULL)


async def names(world: World, version: int = 0) -> list[str]:
    request = service_pb.ReadImagesRequest(parent="datasets/pets", version=version)
    return [image.file_name async for message in world.stub.ReadImages(request) for image in message.images]


async def test_a_new_version_becomes_the_current_one_and_the_earlier_ones_can_still_be_read(world: World) -> None:
    first = await world.register(*tagged(4))
    assert first.version == 1
    second = await revise(world, 6)
    assert (second.state, second.version, second.stats.image_count) == (pb.Dataset.READY, 2, 6)
    third = await revise(world, 5)
    assert [(one.version, one.image_count, one.snapshot_digest) for one in third.earlier_versions] == [
        (1, 4, first.snapshot_digest),
        (2, 6, second.snapshot_digest),
    ]
    assert third.earlier_versions[0].snapshot_uri == first.snapshot_uri
    assert third.create_time == first.create_time
    assert [len(await names(world, version)) for version in (1, 2, 3, 0)] == [4, 6, 5, 5]


async def test_a_version_that_fails_leaves_the_earlier_ones_and_can_be_replaced(world: World) -> None:
    await world.register(*tagged(4))
    await world.put(coco([], []), key="uploads/bad/train.json")
    await world.stub.CreateDataset(world.request(uris=["s3://sightline/uploads/bad/train.json"], new_version=True))
    await world.work()
    failed = await world.get()
    assert (failed.state, failed.version) == (pb.Dataset.FAILED, 2)
    assert len(await names(world, 1)) == 4
    async with refused(StatusCode.FAILED_PRECONDITION, "datasetNotReady", "FAILED"):
        await names(world)
    again = await revise(world, 6)
    assert (again.state, again.version, len(again.earlier_versions), again.error.code) == (pb.Dataset.READY, 2, 1, 0)
    assert [len(await names(world, version)) for version in (1, 2)] == [4, 6]


async def test_a_version_whose_images_are_refused_takes_no_images_from_the_earlier_ones(world: World) -> None:
    described, files = tagged(4)
    await world.register(described, files)
    broken = {name: data if name.endswith("1.png") else b"none" for name, data in files.items()}
    await world.put(described, broken, key="uploads/bad/train.json")
    await world.stub.CreateDataset(world.request(uris=["s3://sightline/uploads/bad/train.json"], new_version=True))
    await world.work()
    assert (await world.get()).state == pb.Dataset.FAILED
    assert len(await names(world, 1)) == 4


async def test_the_same_images_again_are_a_version_of_the_same_digest(world: World) -> None:
    first = await world.register(*tagged(4))
    second = await revise(world, 4)
    assert (second.version, second.snapshot_digest) == (2, first.snapshot_digest)
    assert await names(world, 1) == await names(world, 2)


async def test_without_the_dataset_a_new_version_is_its_first(world: World) -> None:
    assert (await revise(world, 4)).version == 1


async def test_a_repeated_request_makes_one_version(world: World) -> None:
    await world.register(*tagged(4))
    first = await revise(world, 6, request_id="r1")
    assert (await revise(world, 6, request_id="r1")).etag == first.etag


async def test_a_repeated_request_of_an_earlier_version_makes_none(world: World) -> None:
    await world.put(*tagged(4))
    first = world.request(request_id="r0")
    await world.stub.CreateDataset(first)
    await world.work()
    second = await revise(world, 6, request_id="r1")
    await revise(world, 5, request_id="r2")
    for late in (first, world.request(uris=second.annotation_file_uris, new_version=True, request_id="r1")):
        assert (await world.stub.CreateDataset(late)).version == 3


async def test_a_request_id_of_a_call_with_other_files_or_another_kind_is_refused(world: World) -> None:
    await world.register(*tagged(4))
    await revise(world, 6, request_id="r1")
    async with refused(StatusCode.ALREADY_EXISTS, "DatasetAlreadyExists", "pets"):
        await revise(world, 5, request_id="r1")
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "is for IMAGE_CLASSIFICATION"):
        await world.stub.CreateDataset(world.request(kind="OBJECT_DETECTION", new_version=True, request_id="r1"))


async def test_equal_requests_at_once_make_one_version(world: World) -> None:
    await world.register(*tagged(4))
    await world.put(*tagged(6), key="uploads/v6/train.json")
    request = world.request(uris=["s3://sightline/uploads/v6/train.json"], new_version=True, request_id="r1")
    both = await asyncio.gather(*(world.stub.CreateDataset(request) for _ in range(2)))
    assert [one.version for one in both] == [2, 2]


async def test_a_page_token_is_of_one_version(world: World) -> None:
    described, files = tagged(8)
    same = next(iter(files.values()))
    await world.register(described, dict.fromkeys(files, same))
    listing = service_pb.ListFindingsRequest(parent="datasets/pets", page_size=1)
    listing.page_token = (await world.stub.ListFindings(listing)).next_page_token
    looking = service_pb.ListDatasetSamplesRequest(parent="datasets/pets", per_category=2, page_size=1)
    looking.page_token = (await world.stub.ListDatasetSamples(looking)).next_page_token
    assert listing.page_token
    assert looking.page_token
    await revise(world, 6)
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidPageToken", ""):
        await world.stub.ListFindings(listing)
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidPageToken", ""):
        await world.stub.ListDatasetSamples(looking)


async def test_trying_changes_nothing_and_says_what_would_be(world: World) -> None:
    before = await world.register(*tagged(4))
    tried = await world.stub.CreateDataset(world.request(uris=[], new_version=True, validate_only=True))
    assert (tried.version, tried.state, tried.etag) == (2, pb.Dataset.VALIDATING, "")
    assert await world.get() == before


async def test_what_cannot_be_a_version_is_refused(world: World) -> None:
    await world.put(*tagged(4))
    await world.stub.CreateDataset(world.request())
    async with refused(StatusCode.FAILED_PRECONDITION, "WrongState", "revise is possible in READY, FAILED only"):
        await world.stub.CreateDataset(world.request(new_version=True))
    await world.work()
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "is for IMAGE_CLASSIFICATION, and so are"):
        await world.stub.CreateDataset(world.request(kind="OBJECT_DETECTION", new_version=True))
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "has the versions 1 to 1, not 2"):
        await names(world, 2)


async def test_a_deletion_removes_every_version(world: World) -> None:
    await world.register(*tagged(4))
    await revise(world, 6)
    await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name="datasets/pets"))
    await world.work()
    assert not [blob.key async for blob in world.blobs.list("datasets/")]


async def test_the_client_registers_versions_and_says_what_differs(
    world: World, client: AsyncClient, tmp_path: Path
) -> None:
    def photo(name: str, red: int) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(make_image(color=(red, 0, 0)))

    for number, name in enumerate(("cat/1.png", "cat/2.png", "cat/3.png", "dog/4.png", "dog/5.png")):
        photo(name, number * 40)
    await client.datasets.register("pets", tmp_path, wait=False)
    await world.work()
    with pytest.raises(DatasetAlreadyExists) as caught:
        await client.datasets.register("pets", tmp_path, wait=False)
    assert "--new-version" in caught.value.fix
    (tmp_path / "cat/1.png").rename(tmp_path / "dog/1.png")  # relabelled, under another name
    (tmp_path / "cat/2.png").unlink()
    photo("cow/6.png", 230)
    photo("dog/4.png", 250)
    await client.datasets.register("pets", tmp_path, new_version=True, wait=False)
    await world.work()
    pets = await client.datasets.get("pets")
    assert (pets.version, [one.image_count for one in pets.earlier_versions]) == (2, [5])
    found = await client.datasets.diff(pets)
    assert (found.added, found.removed, found.replaced) == (("cow/6.png",), ("cat/2.png",), ("dog/4.png",))
    assert found.renamed == (("cat/1.png", "dog/1.png"),)
    assert [(one.file_name, one.before, one.after) for one in found.relabelled] == [("dog/1.png", ("cat",), ("dog",))]
    assert (found.categories_added, found.categories_removed) == (("cow",), ())
    assert not await client.datasets.diff(pets, 2, 2)
    back = await client.datasets.diff(pets, 2, 1)
    assert (back.added, back.categories_removed) == (("cat/2.png",), ("cow",))
    with pytest.raises(InvalidRequest, match="has the versions 1 to 2, not 7"):
        await client.datasets.diff(pets, 7)
    exported = await client.datasets.export(pets, tmp_path / "out", version=1)
    assert exported.image_count == 5
    read = await client.datasets.images(pets, (2, 1, 99), version=1)
    assert [(one.file, one.category, one.width) for one in read] == [("cat/2.png", "cat", 64), ("cat/1.png", "cat", 64)]
    assert [Image.open(BytesIO(one.image)).getpixel((32, 32)) for one in read] == [(40, 0, 0), (0, 0, 0)]
    assert all(one.file != "cat/2.png" for one in await client.datasets.images(pets, range(1, 6)))


async def test_a_version_leaves_nothing_that_no_snapshot_needs(world: World) -> None:
    """What planned it goes in any case, and its images if it fails, in whatever way."""
    await world.register(*tagged(4))
    await revise(world, 6)
    kept = await stored(world)
    assert {key.split("/")[3] for key in kept} == {"packs", "packs-2", "snapshot", "findings"}
    described, files = tagged(4)
    await world.put(described, dict.fromkeys(files, b"none"), key="uploads/bad/train.json")
    await world.stub.CreateDataset(world.request(uris=["s3://sightline/uploads/bad/train.json"], new_version=True))
    await world.work()
    assert (await world.get()).state == pb.Dataset.FAILED
    assert await stored(world, "findings") == kept - {key for key in kept if "/findings/" in key}


async def test_a_version_that_is_given_up_leaves_no_images(world: World) -> None:
    await world.put(*tagged(4))
    await world.stub.CreateDataset(world.request())
    await world.step()
    await world.step()
    assert any("/packs/" in key for key in await stored(world))
    with ThreadPoolExecutor(1) as executor:
        await give_up(world.context(executor), "datasets/pets", "reading")
    await world.work()
    assert (await world.get()).state == pb.Dataset.FAILED
    assert await stored(world) == set()


async def stored(world: World, without: str = "/") -> set[str]:
    """The keys of all blobs of datasets."""
    return {blob.key async for blob in world.blobs.list("datasets/") if f"/{without}/" not in blob.key}
