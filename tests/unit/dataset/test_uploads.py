"""Uploads over a real server and doubles: limits, idle streams, expiry beside CreateDataset, and interrupted ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from grpc import StatusCode

from services.dataset.settings import DatasetSettings
from services.dataset.upload import check_path
from services.dataset.upload_records import INTERRUPTED, UploadState, upload_of
from services.kit.errors import InvalidRequest, QuotaExceeded, UploadNotFound
from sightline.v1 import dataset_service_pb2 as pb
from tests.support.datasets import URI, World, refused, running, tagged, upload_messages
from tests.support.waiting import eventually

SMALL = DatasetSettings(
    max_project_upload_bytes=10, max_project_upload_files=3, max_total_upload_bytes=15, max_total_upload_files=100
)
DAY, MONTH = 24 * 3600.0, 720 * 3600.0  # seconds


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as made:
        yield made


async def listed(world: World) -> list[str]:
    return [one.name for one in (await world.stub.ListUploads(pb.ListUploadsRequest())).uploads]


async def test_the_bytes_and_files_of_a_projects_uploads_are_limited() -> None:
    async with running(World(settings=SMALL)) as world:
        await world.upload({"a": b"12345", "b": b"123"}, "one")
        async with refused(
            StatusCode.RESOURCE_EXHAUSTED, "QuotaExceeded", "bytes of all uploads of project default: 11"
        ):
            await world.upload({"c": b"123"}, "two")
        async with refused(StatusCode.RESOURCE_EXHAUSTED, "QuotaExceeded", "SIGHTLINE_MAX_PROJECT_UPLOAD_FILES"):
            await world.upload({"c": b"", "d": b""}, "two")
        async with refused(StatusCode.RESOURCE_EXHAUSTED, "QuotaExceeded", "bytes of all uploads: 16"):
            await world.stub.UploadFiles(
                iter(upload_messages("other", {"e": b"12345678"})), metadata=(("sightline-project", "acme"),)
            )
        await world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/one"))
        await world.upload({"z": b"1234567890"}, "two")


async def test_a_project_has_so_many_uploads_also_without_files() -> None:
    async with running(World(settings=DatasetSettings(max_project_uploads=2))) as world:
        for name in ("one", "two", "two"):
            await world.upload({}, name)
        async with refused(StatusCode.RESOURCE_EXHAUSTED, "QuotaExceeded", "SIGHTLINE_MAX_PROJECT_UPLOADS"):
            await world.upload({}, "three")
        await world.upload({"a": b"1"}, "two")
        metadata = (("sightline-project", "acme"),)
        await world.stub.UploadFiles(iter(upload_messages("other", {})), metadata=metadata)
        await world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/one"))
        await world.upload({}, "three")


async def test_what_a_failed_stream_stored_counts() -> None:
    async with running(World(settings=SMALL)) as world:
        async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "sha256"):
            await world.stub.UploadFiles(
                iter([*upload_messages("one", {"a": b"12345"}), *upload_messages("", {"b": b"1"}, sha256="x")[1:]])
            )
        (upload,) = (await world.stub.ListUploads(pb.ListUploadsRequest())).uploads
        assert (upload.file_count, upload.size_bytes) == (1, 5)
        with pytest.raises(QuotaExceeded):
            world.uploads().check_room("uploads/x", 6, 1)


async def test_a_stream_on_which_nothing_arrives_ends() -> None:
    async def stalling() -> AsyncIterator[pb.UploadFilesRequest]:
        for message in upload_messages("one", {"a": b"1", "b": b"22"})[:-1]:
            yield message
        await asyncio.Event().wait()

    async with running(World(settings=DatasetSettings(upload_idle_seconds=0.05))) as world:
        async with refused(StatusCode.UNAVAILABLE, "StreamIdle", "Nothing arrived for 0.05 s"):
            await world.stub.UploadFiles(stalling())
        assert await listed(world) == ["uploads/one"]
        assert await world.blobs.get("uploads/one/a") == b"1"


async def test_an_upload_that_no_dataset_names_expires_and_one_that_is_named_stays(world: World) -> None:
    described, files = tagged(4)
    await world.upload({"train.json": described, **files}, "u1")
    await world.upload({"a": b"1"}, "idle")
    await world.stub.CreateDataset(world.request(uris=[URI]))
    await world.work()
    world.clock.advance(MONTH)
    await world.expiry().reconcile()
    assert await listed(world) == ["uploads/idle", "uploads/u1"], "not before its time"
    world.clock.advance(1)
    await world.expiry().reconcile()
    assert await listed(world) == ["uploads/u1"]
    assert [blob.key async for blob in world.blobs.list("uploads/idle/")] == []
    await world.stub.DeleteDataset(pb.DeleteDatasetRequest(name="datasets/pets"))
    await world.work()
    await eventually(lambda: not world.view.all())
    await world.expiry().reconcile()
    assert await listed(world) == []


async def test_an_upload_without_files_expires_after_a_day(world: World) -> None:
    await world.upload({}, "empty")
    await world.upload({"a": b"1"}, "full")
    world.clock.advance(DAY)
    await world.expiry().reconcile()
    assert await listed(world) == ["uploads/empty", "uploads/full"], "not before its time"
    world.clock.advance(1)
    await world.expiry().reconcile()
    assert await listed(world) == ["uploads/full"]


async def test_no_upload_expires_while_a_dataset_cannot_be_read(world: World) -> None:
    """It may be a newer release's, and name any of them."""
    await world.upload({"a": b"1"}, "idle")
    revision = await world.records.create("datasets/newer", b'{"record_format": 2}')
    world.clock.advance(MONTH + 1)
    await eventually(lambda: bool(world.view.unreadable))
    await world.expiry().reconcile()
    assert await listed(world) == ["uploads/idle"]
    await world.records.delete("datasets/newer", revision)
    await eventually(lambda: not world.view.unreadable)
    await world.expiry().reconcile()
    assert await listed(world) == []


async def test_an_upload_that_a_dataset_is_about_to_name_does_not_expire(world: World) -> None:
    """CreateDataset has marked it as used, but not created the dataset, when the reconciler acts on what it saw."""
    await world.upload({"train.json": b"{}"}, "u1")
    (found,) = world.kept.view.all()
    world.clock.advance(MONTH + 1)
    await world.uploads().use("uploads/u1/train.json")
    await world.uploads().expire(found)
    assert await listed(world) == ["uploads/u1"]
    await world.expiry().reconcile()
    assert await listed(world) == ["uploads/u1"], "its use was just now"


async def test_a_dataset_cannot_name_an_upload_that_is_going(world: World) -> None:
    await world.upload({"train.json": b"{}"}, "u1")
    (found,) = world.kept.view.all()
    await world.kept.change(found.value.name, going)
    with pytest.raises(UploadNotFound):
        await world.uploads().use("uploads/u1/train.json")
    async with refused(StatusCode.INVALID_ARGUMENT, "DatasetInvalidAnnotationUri", "there is no such file"):
        await world.stub.CreateDataset(world.request(uris=[URI]))
    async with refused(StatusCode.FAILED_PRECONDITION, "WrongState", "uploads/u1 is DELETING"):
        await world.upload({"b": b"1"}, "u1")


def going(upload: Any) -> Any:
    return replace(upload, state=UploadState.DELETING)


async def test_an_interrupted_deletion_is_finished(world: World) -> None:
    await world.upload({"a": b"1"}, "u1")
    await world.kept.change("uploads/u1", going)
    await world.expiry().reconcile()
    assert await listed(world) == ["uploads/u1"], "somebody may be at it"
    world.clock.advance(INTERRUPTED.total_seconds() + 1)
    await world.expiry().reconcile()
    assert await listed(world) == []
    assert [blob.key async for blob in world.blobs.list("uploads/")] == []


class Still:
    """The first deletion of a blob, in the middle of an upload's removal, stands still until told to go on."""

    def __init__(self, world: World) -> None:
        self.standing, self.go_on = asyncio.Event(), asyncio.Event()
        self._delete, self._blobs = world.blobs.delete, world.blobs
        world.blobs.delete = self._first

    async def _first(self, key: str) -> None:
        self._blobs.delete = self._delete
        self.standing.set()
        await self.go_on.wait()
        await self._delete(key)


async def test_two_removals_at_once_are_one(world: World) -> None:
    await world.upload({"a": b"1", "b": b"2"}, "u1")
    still = Still(world)
    first = asyncio.ensure_future(world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/u1")))
    await still.standing.wait()
    await world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/u1"))
    assert await listed(world) == ["uploads/u1"], "its files are not gone yet"
    still.go_on.set()
    await first
    assert await listed(world) == []
    assert [blob.key async for blob in world.blobs.list("uploads/")] == []


async def test_a_removal_that_stood_still_touches_nothing_of_a_later_upload_of_the_name(world: World) -> None:
    files = {name: name.encode() for name in "abcd"}
    await world.upload(files, "u1")
    still = Still(world)
    first = asyncio.ensure_future(world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/u1")))
    await still.standing.wait()
    world.clock.advance(INTERRUPTED.total_seconds() + 1)
    await world.expiry().reconcile()
    assert await listed(world) == []
    del files["a"]  # the deletion of this one is on its way
    await world.upload(files, "u1")
    before = [blob.key async for blob in world.blobs.list("uploads/")]
    still.go_on.set()
    await first
    assert [blob.key async for blob in world.blobs.list("uploads/")] == before
    assert await listed(world) == ["uploads/u1"]


async def test_a_long_removal_is_not_taken_for_an_interrupted_one(world: World) -> None:
    await world.upload({"a": b"1", "b": b"2", "c": b"3"}, "u1")
    delete, seen = world.blobs.delete, list[str]()

    async def slow(key: str) -> None:
        await delete(key)
        world.clock.advance(0.9 * INTERRUPTED.total_seconds())
        seen.append(key)
        await world.expiry().reconcile()

    world.blobs.delete = slow
    await world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/u1"))
    assert len(seen) == len(set(seen)) == 4, "each file once, and their list"


async def test_a_stream_of_an_earlier_upload_takes_no_file_from_a_later_one_of_the_name(world: World) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[pb.UploadFilesRequest]:
        messages = upload_messages("u1", {"a": b"1", "b": b"22"})
        for message in messages[:2]:
            yield message
        arrived.set()
        await go_on.wait()
        for message in messages[2:]:
            yield message

    call = asyncio.ensure_future(world.stub.UploadFiles(slow()))
    await arrived.wait()
    while not world.kept.view.all():  # noqa: ASYNC110 - it waits for the record
        await asyncio.sleep(0.01)
    await world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/u1"))
    await world.upload({"a": b"1"}, "u1")
    go_on.set()
    async with refused(StatusCode.NOT_FOUND, "UploadNotFound", "uploads/u1 does not exist"):
        await call
    assert await world.blobs.get("uploads/u1/a") == b"1"


async def test_a_stream_whose_upload_is_deleted_leaves_nothing(world: World) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[pb.UploadFilesRequest]:
        messages = upload_messages("u1", {"a": b"1", "b": b"22"})
        for message in messages[:-1]:
            yield message
        arrived.set()
        await go_on.wait()
        yield messages[-1]

    call = asyncio.ensure_future(world.stub.UploadFiles(slow()))
    await arrived.wait()
    while not [one async for one in world.blobs.list("uploads/u1/a")]:  # noqa: ASYNC110 - it waits for the store
        await asyncio.sleep(0.01)
    await world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/u1"))
    go_on.set()
    async with refused(StatusCode.NOT_FOUND, "UploadNotFound", "uploads/u1 does not exist"):
        await call
    assert [blob.key async for blob in world.blobs.list("uploads/")] == []


async def test_files_of_an_earlier_version_are_in_no_upload_that_anybody_could_take_over(world: World) -> None:
    await world.blobs.put("uploads/old/train.json", b"{}")
    async with refused(StatusCode.ALREADY_EXISTS, "UploadAlreadyExists", "has files of an earlier version"):
        await world.upload({"train.json": b"[]"}, "old")
    await world.stub.CreateDataset(world.request(uris=["s3://sightline/uploads/old/train.json"]))


def test_the_upload_of_a_blob() -> None:
    assert upload_of("uploads/u/a/b.png") == "uploads/u"
    assert upload_of("projects/acme/uploads/u/a") == "projects/acme/uploads/u"
    assert upload_of("uploads/u") == upload_of("shared/uploads/u/a") == upload_of("projects/acme/datasets/d/x") == ""


def test_of_a_long_path_what_is_wrong_is_told() -> None:
    path = "/".join(["d" * 210] * 5 + ["1.jpg"])
    with pytest.raises(InvalidRequest, match=r"…' is longer than 1024 bytes\.$") as caught:
        check_path(path, "uploads/x/")
    assert len(str(caught.value)) < 300
