"""Comparing a training dataset with a test dataset."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from grpc import StatusCode
from PIL import Image, ImageOps

from services.dataset import compare
from services.dataset.store import get_manifest
from services.kit.memory import MemoryBlobs
from services.vision.snapshot import read_index, write_index
from sightline.v1 import dataset_service_pb2 as service_pb
from tests.service.test_dataset_duplicates import picture
from tests.support.datasets import World, coco, refused, running

COMPARISON = service_pb.CompareDatasetsResponse


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


async def registered(
    world: World, name: str, images: Mapping[str, tuple[bytes, str]], kind: str = "IMAGE_CLASSIFICATION"
) -> None:
    """A dataset of files with their categories, in a folder of its own."""
    names = sorted({label for _, label in images.values()})
    rows = [{"id": number, "file_name": file} for number, file in enumerate(images, 1)]
    marks: list[dict[str, Any]] = [
        {"id": n, "image_id": n, "category_id": names.index(label) + 1, "bbox": [1, 1, 40, 40]}
        for n, (_, label) in enumerate(images.values(), 1)
    ]
    key = f"uploads/{name}/train.json"
    await world.put(coco(rows, marks, names), {file: data for file, (data, _) in images.items()}, key)
    await world.stub.CreateDataset(world.request(name, kind, [f"s3://sightline/{key}"]))
    await world.work()


async def compared(world: World, **fields: Any) -> COMPARISON:
    request = service_pb.CompareDatasetsRequest(
        training_dataset="datasets/training", test_dataset="datasets/test", **fields
    )
    return await world.stub.CompareDatasets(request)


def smaller(data: bytes) -> bytes:
    out = BytesIO()
    image = Image.open(BytesIO(data))
    image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(out, "JPEG", quality=75)
    return out.getvalue()


def numbered(first: int, count: int, label: str, **options: Any) -> dict[str, tuple[bytes, str]]:
    return {f"{n}.png": (picture(n, **options), label) for n in range(first, first + count)}


async def test_shared_images_are_listed_exact_ones_first(world: World) -> None:
    training = numbered(1, 6, "a")
    await registered(world, "training", training)
    shared = {
        "near.jpg": (smaller(picture(2)), "a"),
        "pixels.bmp": (picture(3, "BMP"), "a"),
        "bytes.png": (picture(4), "a"),
    }
    await registered(world, "test", numbered(11, 4, "a") | shared)
    answer = await compared(world)
    assert (answer.exact_count, answer.near_count) == (2, 1)
    assert [(pair.test_file, pair.training_file, pair.exact) for pair in answer.pairs] == [
        ("pixels.bmp", "3.png", True),
        ("bytes.png", "4.png", True),
        ("near.jpg", "2.png", False),
    ]
    near = answer.pairs[2]
    assert (near.training_image_id, near.test_image_id) == (2, 5)
    assert 0 <= near.distance <= 24
    (finding,) = answer.findings
    assert (finding.code, finding.message) == (
        "testImagesInTraining",
        "3 test images are also in the training dataset: 2 exactly, 1 nearly.",
    )
    assert "Take them out" in finding.remedy


async def test_pages_of_pairs_add_up_and_the_rest_comes_once(world: World) -> None:
    await registered(world, "training", numbered(1, 7, "a"))
    await registered(world, "test", numbered(1, 7, "a"))
    token, files, findings = "", list[str](), 0
    while True:
        answer = await compared(world, page_size=3, page_token=token)
        files += [pair.test_file for pair in answer.pairs]
        findings += len(answer.findings) + len(answer.categories)
        assert answer.exact_count == 7
        if not (token := answer.next_page_token):
            break
    assert files == [f"{n}.png" for n in range(1, 8)]
    assert findings == 2
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidPageToken", "ask again without a token"):
        await compared(world, page_token="x")


async def test_categories_that_differ_or_are_spelt_differently_are_found(world: World) -> None:
    await registered(world, "training", numbered(1, 4, "Cat") | numbered(5, 4, "bird"))
    await registered(world, "test", numbered(11, 4, "cat ") | numbered(15, 4, "dog"))
    answer = await compared(world)
    assert [(one.training_category, one.test_category) for one in answer.categories] == [
        ("Cat", "cat"),
        ("bird", ""),
        ("", "dog"),
    ]
    assert (answer.categories[0].training_image_count, answer.categories[0].test_image_count) == (4, 4)
    found = {finding.code: finding.message for finding in answer.findings}
    assert set(found) == {"categoriesSpeltDifferently", "categoryOnlyInTraining", "categoryOnlyInTest"}
    assert "'bird'" in found["categoryOnlyInTraining"]
    assert "'dog'" in found["categoryOnlyInTest"]


async def test_other_shares_are_found_but_not_what_chance_explains(world: World) -> None:
    await registered(world, "training", numbered(100, 40, "a") | numbered(200, 10, "b") | numbered(300, 4, "c"))
    await registered(world, "test", numbered(400, 10, "a") | numbered(500, 40, "b") | numbered(600, 2, "c"))
    answer = await compared(world)
    assert sorted(finding.message for finding in answer.findings if finding.code == "labelShift") == [
        "The share of 'a' is 74.1% in the training dataset and 19.2% in the test dataset.",
        "The share of 'b' is 18.5% in the training dataset and 76.9% in the test dataset.",
    ]


async def test_other_sizes_and_kinds_are_found(world: World) -> None:
    await registered(world, "training", numbered(1, 3, "a", side=300) | {"x.png": (picture(9, side=80), "a")})
    await registered(world, "test", numbered(11, 3, "a", side=100), kind="OBJECT_DETECTION")
    answer = await compared(world)
    assert (answer.training_sizes.median_width, answer.test_sizes.median_height) == (300, 100)
    assert (answer.training_sizes.smallest_side, answer.training_sizes.largest_side) == (80, 300)
    assert {finding.code for finding in answer.findings} == {"sizesDiffer", "annotationKindsDiffer"}


async def test_datasets_of_the_same_kind_of_images_have_no_findings(world: World) -> None:
    await registered(world, "training", numbered(1, 8, "a") | numbered(11, 8, "b"))
    await registered(world, "test", numbered(21, 5, "a") | numbered(31, 5, "b"))
    answer = await compared(world)
    assert (list(answer.findings), list(answer.pairs)) == ([], [])


async def test_a_snapshot_without_fingerprints_is_compared_by_its_files(world: World) -> None:
    await registered(world, "training", numbered(1, 4, "a"))
    await registered(world, "test", numbered(1, 1, "a") | {"near.jpg": (smaller(picture(2)), "a")})
    record = (await world.collection.get("datasets/training")).value
    for shard in (await get_manifest(world.blobs, record.manifest_key)).shards:
        index = read_index(await world.blobs.get(shard.index_key))
        old = [msgspec.structs.replace(one, fingerprint=None) for one in index.records]
        await world.blobs.put(shard.index_key, write_index(msgspec.structs.replace(index, records=tuple(old))))
    answer = await compared(world)
    assert (answer.exact_count, answer.near_count) == (1, 0)
    assert "datasets/training was registered by a version" in answer.findings[-1].message


async def test_only_ready_datasets_that_exist_are_compared(world: World) -> None:
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", "datasets/training"):
        await compared(world)
    await registered(world, "training", numbered(1, 4, "a"))
    await world.put(coco([], []), {}, "uploads/test/x.json")
    await world.stub.CreateDataset(world.request("test", uris=["s3://sightline/uploads/test/x.json"]))
    async with refused(StatusCode.FAILED_PRECONDITION, "datasetNotReady", "datasets/test"):
        await compared(world)
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidName", "training_dataset"):
        await world.stub.CompareDatasets(service_pb.CompareDatasetsRequest(training_dataset="models/x"))


async def real(world: World, folder: Path, name: str, file: str, files: Mapping[str, bytes]) -> None:
    """A dataset of one of the folder's COCO files."""
    described = (folder / file).read_bytes()
    kind = "OBJECT_DETECTION" if "bbox" in json.loads(described)["annotations"][0] else "IMAGE_CLASSIFICATION"
    key = f"uploads/{name}/a.json"
    await world.put(described, files, key)
    await world.stub.CreateDataset(world.request(name, kind, [f"s3://sightline/{key}"]))
    await world.work()


@pytest.mark.parametrize("name", ["trash", "hemlock_cherry", "raccoon"])
async def test_training_and_test_images_of_real_sets_are_different(world: World, test_data: Path, name: str) -> None:
    files = {f"images/{path.name}": path.read_bytes() for path in (test_data / name / "images").iterdir()}
    await real(world, test_data / name, "training", "train.json", files)
    await real(world, test_data / name, "test", "test.json", files)
    answer = await compared(world)
    assert (list(answer.pairs), list(answer.findings)) == ([], [])


async def test_smaller_copies_of_real_photos_are_found_each_with_its_own(world: World, test_data: Path) -> None:
    folder = test_data / "hemlock_cherry"
    files = {f"images/{path.name}": path.read_bytes() for path in (folder / "images").iterdir()}
    await real(world, folder, "training", "train.json", files)
    await real(world, folder, "test", "train.json", {name: smaller(upright(data)) for name, data in files.items()})
    answer = await compared(world)
    assert (answer.exact_count, answer.near_count) == (0, 12)
    assert all(pair.test_file == pair.training_file for pair in answer.pairs)


def upright(data: bytes) -> bytes:
    out = BytesIO()
    ImageOps.exif_transpose(Image.open(BytesIO(data))).save(out, "PNG")
    return out.getvalue()


async def test_a_new_version_is_compared_anew(world: World):
    await registered(world, "training", numbered(0, 4, "cat") | numbered(4, 4, "dog"))
    await registered(world, "test", numbered(0, 2, "cat") | numbered(4, 2, "dog"))
    page = await compared(world, page_size=1)
    assert page.exact_count == 4
    others = numbered(20, 4, "cat") | numbered(30, 4, "dog")
    await registered(world, "others", others)
    uri = (await world.get("others")).annotation_file_uris[0]
    await world.stub.CreateDataset(world.request("test", uris=[uri], new_version=True))
    await world.work()
    assert (await compared(world)).exact_count == 0
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidPageToken", ""):
        await compared(world, page_size=1, page_token=page.next_page_token)


async def test_one_comparison_runs_at_a_time_and_what_nobody_waits_for_is_not_begun(monkeypatch: pytest.MonkeyPatch):
    begun, go = list[str](), asyncio.Event()

    async def slow(blobs: Any, training: Any, test: Any) -> str:
        begun.append(test.record.manifest_key)
        await go.wait()
        return f"compared with {begun[-1]}"

    monkeypatch.setattr(compare, "compare", slow)
    sides = [SimpleNamespace(record=SimpleNamespace(manifest_key=str(number))) for number in range(50)]
    comparisons: Any = compare.Comparisons(MemoryBlobs())
    calls = [asyncio.create_task(comparisons.of(sides[0], side)) for side in sides]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for call in calls[:-1]:
        call.cancel()
    await asyncio.gather(*calls[:-1], return_exceptions=True)
    go.set()
    assert await calls[-1] == "compared with 49"
    assert begun == ["0", "49"]
    assert await comparisons.of(sides[0], sides[0]) == "compared with 0"
    assert begun == ["0", "49"]
