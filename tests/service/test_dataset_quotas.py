"""Quotas of a project in the dataset service: how many datasets, and how many bytes of everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc
import pytest

from services.dataset.domain import NewDataset
from services.kit import codec
from services.kit.account import Account
from services.kit.errors import ProjectQuotaExceeded
from services.kit.quotas import Limits
from services.vision.snapshot import AnnotationKind
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from tests.contract.test_accounts import Interleaved
from tests.support.datasets import URI, World, coco, make_image, refused, running, tagged

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    """A running service whose limits a test may change."""
    async with running(World()) as made:
        yield made


def limit(world: World, **limits: int) -> None:
    """Changes the limits of all projects, as an operator does in the file."""
    world.limits = Limits(**limits)


async def stored(world: World) -> int:
    """What the project's uploads and snapshots hold."""
    snapshots = sum(found.value.stats.stored_bytes for found in world.view.all() if found.value.stats)
    return snapshots + sum(found.value.size_bytes for found in world.kept.view.all())


async def shown(world: World, revision: int) -> None:
    """Returns once the service knows the account that was written."""
    await world.accounts.view.caught_up(revision)


async def test_datasets_beyond_the_quota_are_refused_until_one_is_gone(world: World) -> None:
    limit(world, datasets=2)
    described, files = tagged(4)
    await world.register(described, files, "a")
    await world.register(described, files, "b")
    saying = "Project default, datasets: 2 in use, and 1 more would exceed the limit of 2"
    for validate_only in (True, False):
        async with refused(FULL, "QuotaExceeded", saying):
            await world.stub.CreateDataset(world.request("c", validate_only=validate_only))
    await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name="datasets/a"))
    async with refused(FULL, "QuotaExceeded", saying):  # it is still being removed
        await world.stub.CreateDataset(world.request("c"))
    await world.work()
    await world.stub.CreateDataset(world.request("c"))


async def test_a_repeated_call_returns_what_it_created_though_the_quota_is_used_up(world: World) -> None:
    limit(world, datasets=1)
    described, files = tagged(4)
    await world.put(described, files)
    for _ in range(2):
        found = await world.stub.CreateDataset(world.request("a", request_id="r"))
        assert found.name == "datasets/a"


async def test_creates_of_two_replicas_at_once_do_not_exceed_it() -> None:
    records = Interleaved()
    described, files = tagged(4)
    worlds = [World(records=records, limits=Limits(datasets=5)) for _ in range(2)]
    for one in worlds:
        await one.put(described, files)
    views = [view for one in worlds for view in one.views()]
    keepers = [asyncio.create_task(view.run()) for view in views]
    for view in views:
        await view.synced()

    async def attempt(number: int) -> bool:
        one = worlds[number % 2]
        app = one.app()
        try:
            await app.create(NewDataset(f"d{number}", AnnotationKind.IMAGE_CLASSIFICATION, (URI,)))
        except ProjectQuotaExceeded:
            return False
        return True

    assert sum(await asyncio.gather(*map(attempt, range(20)))) == 5
    assert len(worlds[0].view.all()) == 5
    for keeper in keepers:
        keeper.cancel()


async def test_an_upload_stops_where_the_projects_storage_is_used_up(world: World) -> None:
    image = make_image()
    limit(world, storage_bytes=3 * len(image) - 1)
    files = {f"{number}.png": image for number in range(3)}
    async with refused(FULL, "QuotaExceeded", "Project default, storage"):
        await world.upload(files)
    assert await stored(world) == 2 * len(image)


async def test_snapshots_and_the_bundles_of_the_trainer_count_too(world: World) -> None:
    described, files = tagged(4)
    ready = await world.register(described, files, "a")
    assert ready.state == pb.Dataset.READY
    snapshot = await stored(world)
    assert snapshot >= sum(map(len, files.values()))

    limit(world, storage_bytes=snapshot + 1000 + 10)
    trained = Account("accounts/trainer", held_bytes={"models": 1000})
    await shown(world, await world.records.create(trained.name, codec.encode(trained)))
    async with refused(FULL, "QuotaExceeded", f"storage: {snapshot + 1000} bytes in use, and 11 bytes more would"):
        await world.upload({"a.bin": b"x" * 11}, "more")
    await world.upload({"a.bin": b"x" * 10}, "more")
    async with refused(FULL, "QuotaExceeded", "and any more would exceed the limit"):
        await world.stub.CreateDataset(world.request("b"))


async def test_a_snapshot_that_does_not_fit_fails_its_dataset_and_leaves_nothing(world: World) -> None:
    described, files = tagged(4)
    await world.register(described, files, "a")
    snapshot = await stored(world)
    limit(world, storage_bytes=2 * snapshot - 1)
    await world.quotas().publish()
    failed = await world.register(described, files, "b")
    assert (failed.state, failed.error.code) == (pb.Dataset.FAILED, FULL.value[0])
    assert "Project default, storage" in failed.error.message
    assert [blob.key async for blob in world.blobs.list("datasets/b/") if "/packs/" in blob.key] == []
    limit(world, storage_bytes=2 * snapshot)
    assert (await world.register(described, files, "c")).state == pb.Dataset.READY


async def test_earlier_versions_count_too_while_the_next_one_is_checked(world: World) -> None:
    await world.register(*tagged(4))
    first = await stored(world)
    await world.put(*tagged(5), key="uploads/second/train.json")
    request = world.request(uris=["s3://sightline/uploads/second/train.json"], new_version=True)
    await world.stub.CreateDataset(request)
    limit(world, storage_bytes=first)
    async with refused(FULL, "QuotaExceeded", f"storage: {first} bytes in use"):
        await world.upload({"a.bin": b"x"}, "more")
    limit(world)
    await world.work()
    (record,) = world.view.all()
    assert record.value.stats is not None
    assert record.value.stored_bytes == first + record.value.stats.stored_bytes


async def test_a_version_beyond_the_quota_is_refused_and_leaves_the_dataset_as_it_is(world: World) -> None:
    await world.register(*tagged(4))
    await world.put(*tagged(5), key="uploads/second/train.json")
    limit(world, storage_bytes=1)
    for validate_only in (True, False):
        uris = ["s3://sightline/uploads/second/train.json"]
        async with refused(FULL, "QuotaExceeded", "Project default, storage"):
            await world.stub.CreateDataset(world.request(uris=uris, new_version=True, validate_only=validate_only))
    assert (await world.get()).state == pb.Dataset.READY


async def test_what_is_published_is_what_is_stored_and_projects_are_apart(world: World) -> None:
    await world.upload({"a.bin": b"x" * 11})
    await world.register(coco([], []), {}, "broken")
    await world.quotas().publish()
    await shown(world, (await world.records.get("accounts/dataset")).revision)
    account = world.accounts.last("default", "dataset")
    assert (account.resources, account.held_bytes) == (1, {"uploads": 11, "datasets": 0})
    assert world.accounts.last("acme", "dataset").held_bytes == {}
