"""Reading a dataset back: the stream itself, and round trips through every form."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from services.vision.snapshot import Manifest, Record, read_index, read_manifest
from sightline.client.client_aio import AsyncClient
from sightline.client.errors import DatasetChanged, ExportRefused
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from tests.support.datasets import World, coco, make_image, refused, running, tagged

ODD = ("a b.jpg", "日本/図.jpg", "100%25 é.jpg", "c#1+.JPEG", unicodedata.normalize("NFD", "é.jpg"), "A B.jpg", "noend")

CATEGORY, FOLDER = "a: 'b' \"c\" #1", "a_ 'b' _c_ #1"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    addresses = Addresses(dataset=world.address, trainer=world.address, predictor=world.address)
    async with AsyncClient(addresses, Credentials(), progress=False) as client:
        yield client


async def read(world: World, **fields: Any) -> list[service_pb.ReadImagesResponse]:
    request = service_pb.ReadImagesRequest(parent="datasets/pets", **fields)
    return [message async for message in world.stub.ReadImages(request)]


def joined(messages: list[service_pb.ReadImagesResponse]) -> dict[str, bytes]:
    """The bytes of each file."""
    found: dict[str, bytes] = {}
    for message in messages:
        for image in message.images:
            found[image.file_name] = b""
        if message.chunk:
            found[list(found)[-1]] += message.chunk
    return found


async def content(world: World, name: str) -> tuple[Manifest, list[Record]]:
    dataset = await world.get(name)
    assert dataset.state == pb.Dataset.READY, dataset.error
    manifest = read_manifest(await world.blobs.get(dataset.snapshot_uri.removeprefix("s3://sightline/")))
    shards = [read_index(await world.blobs.get(shard.index_key)) for shard in manifest.shards]
    return manifest, [record for shard in shards for record in shard.records]


async def register(world: World, client: AsyncClient, name: str, source: Path) -> None:
    await client.datasets.register(name, source, wait=False)
    await world.work()


# The stream.


async def test_images_come_with_their_bytes_and_annotations(world: World) -> None:
    described, files = tagged(5)
    dataset = await world.register(described, files)
    messages = await read(world)
    head = messages[0].snapshot
    assert (head.digest, head.image_count, head.annotation_kind) == (
        dataset.snapshot_digest,
        5,
        pb.Dataset.IMAGE_CLASSIFICATION,
    )
    assert [(one.id, one.name) for one in head.categories] == [(1, "c1"), (2, "c2")]
    assert joined(messages) == files
    images = [message.images[0] for message in messages if message.images]
    assert [(one.image_id, one.category_id, one.extension) for one in images][:2] == [(1, 1, "png"), (2, 2, "png")]
    assert [one.sha256 for one in images] == [hashlib.sha256(files[one.file_name]).hexdigest() for one in images]


async def test_a_large_image_comes_in_chunks_of_a_mebibyte(world: World) -> None:
    large = make_image(1000, 1000, form="JPEG") + bytes(3 << 20)  # trailing bytes are no part of the picture
    described = coco([{"id": 1, "file_name": "a.jpg"}], [{"id": 1, "image_id": 1, "category_id": 1}])
    await world.register(described, {"a.jpg": large})
    messages = await read(world)
    assert joined(messages) == {"a.jpg": large}
    assert max(len(message.chunk) for message in messages) == 1 << 20


async def test_a_stream_continues_after_an_image(world: World) -> None:
    described, files = tagged(5)
    await world.register(described, files)
    assert list(joined(await read(world, after_image_id=3))) == ["images/4.png", "images/5.png"]
    assert not joined(await read(world, after_image_id=5))


async def test_annotations_alone_come_many_in_a_message(world: World) -> None:
    await world.register(*tagged(50))
    messages = await read(world, annotations_only=True)
    assert [len(message.images) for message in messages] == [0, 50]


async def test_only_a_ready_dataset_is_read(world: World) -> None:
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", "datasets/pets does not exist"):
        await read(world)
    await world.put(*tagged(4))
    await world.stub.CreateDataset(world.request())
    async with refused(StatusCode.FAILED_PRECONDITION, "datasetNotReady", "VALIDATING"):
        await read(world)


async def test_damaged_images_are_not_sent(world: World) -> None:
    await world.register(*tagged(4))
    manifest, records = await content(world, "pets")
    shard = manifest.shards[0]
    pack = bytearray(await world.blobs.get(shard.key))
    pack[records[2].offset + 20] ^= 1
    await world.blobs.put(shard.key, bytes(pack))
    async with refused(StatusCode.FAILED_PRECONDITION, "datasetChanged", shard.key):
        await read(world)
    await world.blobs.delete(shard.key)
    async with refused(StatusCode.FAILED_PRECONDITION, "datasetChanged", shard.key):
        await read(world)


async def test_a_dataset_that_is_deleted_while_it_is_read_is_not_found(world: World) -> None:
    large = {f"images/{n}.png": make_image(color=(n, 0, 0)) + bytes(1 << 20) for n in range(1, 30)}
    await world.register(tagged(29)[0], large)
    stream = world.stub.ReadImages(service_pb.ReadImagesRequest(parent="datasets/pets"))
    await stream.read()
    await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name="datasets/pets"))
    await world.work()
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", "datasets/pets does not exist"):
        while True:
            await stream.read()


# Exports.


def odd_set(folder: Path) -> Path:
    """A classification set with odd names, which differ only in case or Unicode form where a file system allows it."""
    images: list[Mapping[str, object]] = []
    for number, name in enumerate(ODD, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(make_image(64, 64, (number * 30, 9, 9), "JPEG"))
        images.append({"id": number * 10, "file_name": name})
    marks = [{"id": n, "image_id": n * 10, "category_id": n % 2 + 1} for n in range(1, len(ODD) + 1)]
    (folder / "train.json").write_bytes(coco(images, marks, ["été 日", CATEGORY]))
    return folder / "train.json"


def boxed_set(folder: Path) -> Path:
    """The same images with boxes."""
    file = odd_set(folder)
    described = json.loads(file.read_bytes())
    for mark in described["annotations"]:
        mark["bbox"] = [mark["id"], 2.25, 10 + mark["id"] / 3, 20]
    file.write_text(json.dumps(described))
    return file


@pytest.mark.parametrize("kind", ["odd", "boxed"])
async def test_coco_comes_back_as_the_same_snapshot(
    kind: str, world: World, client: AsyncClient, tmp_path: Path
) -> None:
    source = (odd_set if kind == "odd" else boxed_set)(tmp_path / "in")
    await register(world, client, "first", source)
    exported = await client.datasets.export("first", tmp_path / "out")
    assert (exported.image_count, exported.written_count) == (len(ODD), len(ODD))
    assert exported.notes == ("'A B.jpg' is 'A B-2.jpg'", "'noend' is 'noend.jpg'")
    await register(world, client, "second", tmp_path / "out")
    (_, first), (_, second) = await content(world, "first"), await content(world, "second")
    for one, other in zip(first, second, strict=True):
        assert (one.image_id, one.sha256, one.labels, one.boxes) == (
            other.image_id,
            other.sha256,
            other.labels,
            other.boxes,
        )


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["hemlock_cherry", "fork_scissors", "raccoon"])
async def test_a_real_set_comes_back_with_the_same_digest(
    name: str, world: World, client: AsyncClient, test_data: Path, tmp_path: Path
) -> None:
    await register(world, client, "first", test_data / name / "test.json")
    await client.datasets.export("first", tmp_path / "out")
    await register(world, client, "second", tmp_path / "out")
    assert (await world.get("second")).snapshot_digest == (await world.get("first")).snapshot_digest


async def labelled(world: World, name: str) -> list[tuple[str, str]]:
    manifest, records = await content(world, name)
    return sorted((record.sha256, manifest.categories[record.labels[0]].name) for record in records)


async def boxes(world: World, name: str) -> tuple[list[tuple[str, str]], list[float]]:
    """The image and category of each box, and the sides of all."""
    manifest, records = await content(world, name)
    marks = [(one.sha256, box) for one in sorted(records, key=lambda one: one.sha256) for box in one.boxes]
    sides = [side for _, box in marks for side in (box.x, box.y, box.w, box.h)]
    return [(sha256, manifest.categories[box.category].name) for sha256, box in marks], sides


async def require_same_boxes(world: World) -> None:
    (marks, sides), (others, other_sides) = await boxes(world, "first"), await boxes(world, "second")
    assert others == marks
    assert other_sides == pytest.approx(sides, abs=1e-4)
    assert (await world.get("second")).stats.image_count == (await world.get("first")).stats.image_count


async def test_folders_come_back_with_the_same_labels(world: World, client: AsyncClient, tmp_path: Path) -> None:
    await register(world, client, "first", odd_set(tmp_path / "in"))
    exported = await client.datasets.export("first", tmp_path / "out", format="folders")
    assert [note.endswith(f"is the folder {FOLDER!r}") for note in exported.notes] == [True]
    await register(world, client, "second", tmp_path / "out")
    renamed = [(digest, FOLDER if ":" in name else name) for digest, name in await labelled(world, "first")]
    assert await labelled(world, "second") == renamed


@pytest.mark.real_data
async def test_folders_of_a_real_set_come_back_with_the_same_labels(
    world: World, client: AsyncClient, test_data: Path, tmp_path: Path
) -> None:
    await register(world, client, "first", test_data / "hemlock_cherry/train.json")
    await client.datasets.export("first", tmp_path / "out", format="folders")
    await register(world, client, "second", tmp_path / "out")
    assert await labelled(world, "second") == await labelled(world, "first")


@pytest.mark.parametrize("form", ["yolo", "voc"])
async def test_boxes_come_back(form: str, world: World, client: AsyncClient, tmp_path: Path) -> None:
    await register(world, client, "first", boxed_set(tmp_path / "in"))
    await client.datasets.export("first", tmp_path / "out", format=form)
    await register(world, client, "second", tmp_path / "out")
    await require_same_boxes(world)
    assert {one.code for one in await world.findings("second")} <= {one.code for one in await world.findings("first")}


@pytest.mark.real_data
@pytest.mark.parametrize("form", ["yolo", "voc"])
async def test_boxes_of_a_real_set_come_back(
    form: str, world: World, client: AsyncClient, test_data: Path, tmp_path: Path
) -> None:
    await register(world, client, "first", test_data / "fork_scissors/train.json")
    await client.datasets.export("first", tmp_path / "out", format=form)
    await register(world, client, "second", tmp_path / "out")
    await require_same_boxes(world)


async def test_an_export_continues_and_reads_nothing_that_is_there(
    world: World, client: AsyncClient, tmp_path: Path
) -> None:
    await world.register(*tagged(6))
    await client.datasets.export("pets", tmp_path)
    for gone in ("images/4.png", "images/6.png", "annotations.json"):
        (tmp_path / gone).unlink()
    exported = await client.datasets.export("pets", tmp_path)
    assert (exported.image_count, exported.written_count) == (6, 2)
    assert json.loads((tmp_path / "annotations.json").read_bytes())["images"][5]["file_name"] == "images/6.png"


async def test_a_dataset_in_another_datasets_folder_is_refused(
    world: World, client: AsyncClient, tmp_path: Path
) -> None:
    await world.register(*tagged(4))
    await client.datasets.export("pets", tmp_path)
    described, files = tagged(4)
    await world.register(described, {name: make_image(color=(9, 9, n)) for n, name in enumerate(files)}, name="others")
    with pytest.raises(ExportRefused, match="files that are not of this export"):
        await client.datasets.export("others", tmp_path)


async def test_a_dataset_that_is_replaced_during_an_export_is_not_mixed_with_its_successor() -> None:
    from sightline.client.exports import Annotations

    annotations = Annotations("datasets/pets")
    annotations.take(service_pb.ReadImagesResponse(snapshot=service_pb.Snapshot(digest="sha256:1")))
    with pytest.raises(DatasetChanged, match="replaced"):
        annotations.take(service_pb.ReadImagesResponse(snapshot=service_pb.Snapshot(digest="sha256:2")))
