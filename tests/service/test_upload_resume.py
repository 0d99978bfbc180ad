"""Interrupted uploads: the service lists what is there, and the client sends only the rest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from grpc import StatusCode

from services.dataset import metrics
from services.dataset.upload_records import UploadState
from services.dataset.uploaded_files import FOLDER
from services.kit.memory import MemoryBlobs
from sightline.client.client_aio import AsyncClient
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials
from sightline.v1 import dataset_service_pb2 as pb
from tests.support.datasets import World, make_image, refused, running, upload_messages


class Counting(MemoryBlobs):
    """Counts how often each file is stored; `victim` is killed when the fifth one is."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = Counter[str]()
        self.victim: asyncio.subprocess.Process | None = None

    async def put_file(self, key: str, path: Path) -> None:
        await super().put_file(key, path)
        self.stored[key.split("/", 2)[2]] += 1
        if self.victim and self.stored.total() == 5:
            self.victim.kill()
            await self.victim.wait()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World(blobs=Counting())) as made:
        yield made


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(addresses(world), Credentials(), progress=False) as client:
        yield client


def addresses(world: World) -> Addresses:
    return Addresses(dataset=world.address, trainer=world.address, predictor=world.address)


def stored(world: World) -> Counter[str]:
    assert isinstance(world.blobs, Counting)
    return world.blobs.stored


def photos(folder: Path) -> list[str]:
    names = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(5)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(make_image(color=(number * 20, 0, 0)))
    return names


async def listed(world: World, name: str = "uploads/u1", size: int = 1000) -> list[pb.UploadedFile]:
    found: list[pb.UploadedFile] = []
    token = ""
    while True:
        request = pb.ListUploadedFilesRequest(parent=name, page_size=size, page_token=token)
        response: pb.ListUploadedFilesResponse = await world.stub.ListUploadedFiles(request)
        assert len(response.files) <= size
        found += response.files
        token = response.next_page_token
        if not token:
            return found


# The service.


async def test_the_files_of_an_upload_are_listed_in_pages_with_their_digests(world: World) -> None:
    files = {f"a/{number}": bytes(number) for number in range(7)}
    await world.upload(dict(list(files.items())[:4]))
    await world.upload(dict(list(files.items())[4:]))
    found = await listed(world, size=2)
    assert {file.path: (file.sha256, file.size_bytes) for file in found} == {
        path: (hashlib.sha256(data).hexdigest(), len(data)) for path, data in files.items()
    }
    assert found[0].uri == "s3://sightline/uploads/u1/a/0"


async def test_what_a_stream_stored_before_it_failed_is_listed(world: World) -> None:
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "sha256"):
        await world.stub.UploadFiles(
            iter([*upload_messages("u1", {"a": b"1"}), *upload_messages("", {"b": b"2"}, sha256="x")[1:]])
        )
    assert [file.path for file in await listed(world)] == ["a"]


async def test_a_file_whose_list_was_lost_is_listed_once_it_is_sent_again_and_not_counted_twice(world: World) -> None:
    await world.upload({"a": b"12"})
    async for blob in world.blobs.list(f"uploads/u1/{FOLDER}/"):  # as if the service had died before it wrote it
        await world.blobs.delete(blob.key)
    assert not await listed(world)
    await world.upload({"a": b"12"})
    assert [file.path for file in await listed(world)] == ["a"]
    (upload,) = (await world.stub.ListUploads(pb.ListUploadsRequest())).uploads
    assert (upload.file_count, upload.size_bytes) == (1, 2)


async def test_only_an_upload_that_is_there_is_listed(world: World) -> None:
    async with refused(StatusCode.NOT_FOUND, "UploadNotFound", "uploads/u1 does not exist"):
        await listed(world)
    await world.upload({"a": b"1", "b": b"2"})
    first = await world.stub.ListUploadedFiles(pb.ListUploadedFilesRequest(parent="uploads/u1", page_size=1))
    await world.stub.DeleteUpload(pb.DeleteUploadRequest(name="uploads/u1"))
    assert not [blob async for blob in world.blobs.list("uploads/")], "the list goes too"
    await world.upload({"a": b"1", "b": b"2"})
    request = pb.ListUploadedFilesRequest(parent="uploads/u1", page_token=first.next_page_token)
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidPageToken", "token"):
        await world.stub.ListUploadedFiles(request)


async def test_a_file_of_an_upload_is_read_back_in_chunks(world: World) -> None:
    data = os.urandom(2 * (1 << 20) + 5)
    await world.upload({"a/b.bin": data, "empty": b""})

    async def chunks(path: str, parent: str = "uploads/u1") -> list[bytes]:
        request = pb.ReadUploadedFileRequest(parent=parent, path=path)
        return [response.chunk async for response in world.stub.ReadUploadedFile(request)]

    read = await chunks("a/b.bin")
    assert b"".join(read) == data
    assert [len(chunk) for chunk in read] == [1 << 20, 1 << 20, 5]
    assert await chunks("empty") == []
    async with refused(StatusCode.NOT_FOUND, "BlobNotFound", "a/c.bin"):
        await chunks("a/c.bin")
    async with refused(StatusCode.NOT_FOUND, "UploadNotFound", "uploads/u2"):
        await chunks("a/b.bin", "uploads/u2")
    for outside in ("../u2/a", "/a", f"{FOLDER}/1.json", ""):
        async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "path"):
            await chunks(outside)


async def test_no_file_of_a_caller_is_taken_for_a_list(world: World) -> None:
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "which the service keeps for itself"):
        await world.upload({f"{FOLDER}/1.json": b"[]"})


# The client.


async def test_a_client_that_is_killed_in_the_middle_sends_each_file_once_when_it_is_repeated(
    world: World, tmp_path: Path
) -> None:
    names = photos(tmp_path / "photos")
    words = (sys.executable, "-m", "sightline", "datasets", "create", "pets", str(tmp_path / "photos"))
    environment = os.environ | {"SIGHTLINE_DATASET_ADDRESS": world.address}
    assert isinstance(world.blobs, Counting)
    world.blobs.victim = await asyncio.create_subprocess_exec(*words, env=environment)
    assert await world.blobs.victim.wait() < 0
    world.blobs.victim = None
    again = await asyncio.create_subprocess_exec(*words, env=environment)
    assert await again.wait() == 0
    assert stored(world) == dict.fromkeys(["annotations.json", *names], 1)
    await world.work()
    assert (await world.get()).stats.image_count == len(names)


async def test_registering_the_same_files_again_sends_nothing(
    world: World, client: AsyncClient, tmp_path: Path
) -> None:
    names = photos(tmp_path / "photos")
    await client.datasets.register("one", tmp_path / "photos", wait=False)
    sent = world.telemetry.value(metrics.UPLOADED)
    await client.datasets.register("two", tmp_path / "photos", wait=False)
    assert world.telemetry.value(metrics.UPLOADED) == sent
    (tmp_path / "photos" / names[0]).write_bytes(make_image(color=(0, 0, 9)))
    await client.datasets.register("three", tmp_path / "photos", wait=False)
    uploads = (await world.stub.ListUploads(pb.ListUploadsRequest())).uploads
    assert [upload.file_count for upload in uploads] == [len(names) + 1] * 2, "other files are another upload"


async def test_the_progress_says_what_was_there_already(world: World, tmp_path: Path) -> None:
    reports: list[tuple[str, float, str]] = []

    class Bar:
        def __init__(self, title: str) -> None:
            self._title = title

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, fraction: float, doing: str, detail: str = "") -> None:
            reports.append((self._title, fraction, doing))

    photos(tmp_path / "photos")
    async with AsyncClient(addresses(world), Credentials(), progress=Bar) as client:
        await client.datasets.register("one", tmp_path / "photos", wait=False)
        reports.clear()
        await client.datasets.register("two", tmp_path / "photos", wait=False)
    assert reports[-1] == ("upload two", 1.0, "11 files, 11 of them there already")


async def test_an_upload_of_the_same_files_that_is_being_deleted_is_not_used(
    world: World, client: AsyncClient, tmp_path: Path
) -> None:
    photos(tmp_path / "photos")
    await client.datasets.register("one", tmp_path / "photos", wait=False)
    (upload,) = (await world.stub.ListUploads(pb.ListUploadsRequest())).uploads
    await world.kept.change(upload.name, lambda present: replace(present, state=UploadState.DELETING))
    await client.datasets.register("two", tmp_path / "photos", wait=False)
    await world.work()
    assert (await world.get("two")).stats.image_count == 10
