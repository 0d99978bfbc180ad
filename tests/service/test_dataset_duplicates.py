"""Images that repeat others in one dataset: findings, and the groups in the snapshot."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.dataset.settings import DatasetSettings
from services.vision.snapshot import read_groups, read_manifest
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import finding_pb2
from tests.support.datasets import World, coco, running

ERROR, WARNING = finding_pb2.Finding.ERROR, finding_pb2.Finding.WARNING
CODES = ("exactDuplicate", "duplicateLabelsDiffer", "nearDuplicate", "nearLabelsDiffer")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


def picture(seed: int, form: str = "PNG", side: int = 96, **options: Any) -> bytes:
    """Coloured patches that depend on the seed, as a file."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    out = BytesIO()
    Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC).save(out, form, **options)
    return out.getvalue()


def labelled(images: Mapping[str, tuple[bytes, int]]) -> tuple[bytes, dict[str, bytes]]:
    """A classification set of the named files with their categories, 1 or 2."""
    rows = [{"id": number, "file_name": name} for number, name in enumerate(images, 1)]
    marks = [{"id": n, "image_id": n, "category_id": label} for n, (_, label) in enumerate(images.values(), 1)]
    return coco(rows, marks), {name: data for name, (data, _) in images.items()}


async def repeats(world: World) -> list[tuple[str, str, str]]:
    """(code, file, file that it repeats)."""
    found = [finding for finding in await world.findings() if finding.code in CODES]
    assert all(finding.remedy and finding.other_file in finding.message for finding in found)
    return [(finding.code, finding.file, finding.other_file) for finding in found]


async def groups(world: World) -> list[list[int]]:
    manifest = read_manifest(await world.blobs.get((await world.collection.get("datasets/pets")).value.manifest_key))
    if not manifest.groups_key:
        return []
    return [list(group) for group in read_groups(await world.blobs.get(manifest.groups_key)).groups]


MIXED = {
    "a.png": (picture(1), 1),
    "b.png": (picture(2), 2),
    "a-bytes.png": (picture(1), 1),
    "a-pixels.bmp": (picture(1, "BMP"), 1),
    "a-smaller.jpg": (picture(1, "JPEG", 64, quality=80), 1),
    "b-label.bmp": (picture(2, "BMP"), 1),
    "b-near-label.jpg": (picture(2, "JPEG", quality=80), 1),
    "c.png": (picture(3), 2),
}


async def test_equal_and_similar_images_are_found_and_disagreeing_labels_are_worse(world: World) -> None:
    assert (await world.register(*labelled(MIXED))).state == pb.Dataset.READY
    assert await repeats(world) == [
        ("duplicateLabelsDiffer", "b-label.bmp", "b.png"),
        ("exactDuplicate", "a-bytes.png", "a.png"),
        ("exactDuplicate", "a-pixels.bmp", "a.png"),
        ("nearDuplicate", "a-smaller.jpg", "a.png"),
        ("nearLabelsDiffer", "b-near-label.jpg", "b.png"),
    ]
    finding = await world.found("duplicateLabelsDiffer")
    assert (finding.severity, finding.image_id, finding.other_image_id) == (ERROR, 6, 2)
    assert "is labelled 'cat' rather than 'dog'" in finding.message
    assert (await world.found("nearLabelsDiffer")).severity == WARNING
    assert await groups(world) == [[1, 3, 4, 5], [2, 6, 7]]


@pytest.mark.parametrize("chunk_images", [1, 3, 1000])
async def test_chunks_change_neither_digest_nor_groups_nor_findings(world: World, chunk_images: int) -> None:
    await world.register(*labelled(MIXED))
    expected = (await world.get()).snapshot_digest, await groups(world), await repeats(world)
    settings = DatasetSettings(progress_seconds=0, chunk_images=chunk_images)
    async with running(World(settings=settings)) as other:
        await other.register(*labelled(MIXED))
        assert ((await other.get()).snapshot_digest, await groups(other), await repeats(other)) == expected


async def test_images_of_one_colour_are_equal_or_different_but_never_similar(world: World) -> None:
    def plain(*color: int) -> bytes:
        out = BytesIO()
        Image.new("RGB", (64, 64), color).save(out, "PNG")
        return out.getvalue()

    files = {"a.png": plain(9, 9, 9), "b.png": plain(9, 9, 10), "c.png": plain(9, 9, 9)}
    await world.register(*labelled({name: (data, 1) for name, data in files.items()}))
    assert await repeats(world) == [("exactDuplicate", "c.png", "a.png")]
    assert await groups(world) == [[1, 3]]


def boxed(
    files: Mapping[str, bytes], boxes: Sequence[tuple[int, Sequence[float], int]]
) -> tuple[bytes, dict[str, bytes]]:
    rows = [{"id": number, "file_name": name} for number, name in enumerate(files, 1)]
    marks = [{"id": n, "image_id": i, "bbox": box, "category_id": c} for n, (i, box, c) in enumerate(boxes, 1)]
    return coco(rows, marks), dict(files)


async def test_equal_images_with_other_boxes_contradict_each_other_but_similar_ones_do_not(world: World) -> None:
    near = picture(1, "JPEG", quality=80)
    files = {
        "a.png": picture(1),
        "same.png": picture(1),
        "fewer.png": picture(1),
        "near.jpg": near,
        "b.png": picture(2),
    }
    two = [10, 10, 30, 30], [50, 50, 40, 40]
    boxes = [(image, box, 1) for image in (1, 2) for box in (two if image == 1 else two[::-1])]
    await world.register(
        *boxed(files, [*boxes, (3, two[0], 1), (4, two[0], 2), (5, two[0], 1)]), kind="OBJECT_DETECTION"
    )
    assert await repeats(world) == [
        ("duplicateLabelsDiffer", "fewer.png", "a.png"),
        ("exactDuplicate", "same.png", "a.png"),
        ("nearDuplicate", "near.jpg", "a.png"),
    ]
    assert "has other boxes (1 here, 2 there)" in (await world.found("duplicateLabelsDiffer")).message


async def test_without_repeated_images_there_are_no_groups(world: World) -> None:
    await world.register(*labelled({f"{n}.png": (picture(n), n % 2 + 1) for n in range(12)}))
    assert (await repeats(world), await groups(world)) == ([], [])


async def test_a_repeated_real_photo_is_found_and_no_other_is_accused(world: World, test_data: Path) -> None:
    """`trash` has no repetitions. Added are a copy, a smaller JPEG and a copy with another label."""
    folder = test_data / "trash"
    described: dict[str, Any] = json.loads((folder / "train.json").read_bytes())
    images: list[dict[str, Any]] = described["images"][:60]
    labels = {mark["image_id"]: mark["category_id"] for mark in described["annotations"]}
    first, second, third = images[:3]
    files = {image["file_name"]: (folder / image["file_name"]).read_bytes() for image in images}
    small = BytesIO()
    shown = Image.open(folder / second["file_name"])
    shown.resize((shown.width * 2 // 3, shown.height * 2 // 3)).save(small, "JPEG", quality=70)
    added = {"copy.jpg": files[first["file_name"]], "small.jpg": small.getvalue(), "x.jpg": files[third["file_name"]]}
    other = next(category["id"] for category in described["categories"] if category["id"] != labels[third["id"]])
    chosen = [labels[first["id"]], labels[second["id"]], other]
    marks = [{"id": n, "image_id": image["id"], "category_id": labels[image["id"]]} for n, image in enumerate(images)]
    for place, (name, label) in enumerate(zip(added, chosen, strict=True), 1):
        images.append({"id": 9000 + place, "file_name": name})
        marks.append({"id": 9000 + place, "image_id": 9000 + place, "category_id": label})
    file = json.dumps({"images": images, "annotations": marks, "categories": described["categories"]}).encode()
    await world.register(file, files | added)
    assert await repeats(world) == [
        ("duplicateLabelsDiffer", "x.jpg", third["file_name"]),
        ("exactDuplicate", "copy.jpg", first["file_name"]),
        ("nearDuplicate", "small.jpg", second["file_name"]),
    ]
