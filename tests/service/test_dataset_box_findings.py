"""Findings about boxes beside each other, and about categories with few images."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from services.dataset.box_rules import overlaps
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import finding_pb2
from tests.service.test_dataset_comparison import real
from tests.service.test_dataset_duplicates import picture
from tests.support.datasets import World, coco, make_image, running, tagged

CODES = ("boxDoubled", "boxCategoriesDiffer", "boxCoversImage", "boxTiny", "boxClipped", "boxesAtBorder")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


async def found(world: World, *boxes: tuple[list[float], int], **fields: object) -> list[tuple[str, int | None, str]]:
    """(code, annotation, message) of an image of 100 x 100 pixels with boxes and their categories, 1 or 2."""
    marks = [{"id": n, "image_id": 1, "bbox": box, "category_id": c, **fields} for n, (box, c) in enumerate(boxes, 1)]
    rows = [{"id": 1, "file_name": "a.png"}]
    await world.register(coco(rows, marks), {"a.png": picture(1, side=100)}, kind="OBJECT_DETECTION")
    listed = [finding for finding in await world.findings() if finding.code in CODES]
    assert all(finding.remedy and finding.file == "a.png" and finding.image_id == 1 for finding in listed)
    return [(finding.code, finding.annotation_id, finding.message) for finding in listed]


async def test_an_object_annotated_twice_is_found_by_its_second_box(world: World) -> None:
    boxes = ([10.0, 10, 40, 40], 1), ([60.0, 60, 30, 30], 1), ([11.0, 11, 40, 40], 1)
    ((code, annotation, message),) = await found(world, *boxes)
    assert (code, annotation) == ("boxDoubled", 3)
    assert "'cat' box is nearly the same as that of annotation 1: 91% of their area is shared" in message


async def test_two_categories_in_one_place_are_found_but_not_objects_in_front_of_others(world: World) -> None:
    boxes = ([10.0, 10, 40, 40], 1), ([10.0, 10, 40, 41], 2), ([12.0, 14, 40, 30], 2), ([30.0, 30, 40, 40], 1)
    ((code, annotation, message),) = await found(world, *boxes)
    assert (code, annotation) == ("boxCategoriesDiffer", 2)
    assert "labelled 'dog', the one of annotation 1 in the same place 'cat'" in message


async def test_a_box_of_the_whole_image_is_found(world: World) -> None:
    ((code, annotation, message),) = await found(world, ([1.0, 1, 98, 98], 2))
    assert (code, annotation, message) == ("boxCoversImage", 1, "The 'dog' box covers the whole image.")


async def test_crowds_may_overlap_and_cover_everything(world: World) -> None:
    assert await found(world, ([0.0, 0, 100, 100], 1), ([1.0, 1, 98, 98], 1), iscrowd=1) == []


async def test_boxes_at_the_border_are_counted_once_for_all_if_there_are_many(world: World) -> None:
    rows = [{"id": n, "file_name": f"{n}.png"} for n in range(1, 13)]
    files = {f"{n}.png": picture(n, side=100) for n in range(1, 13)}
    marks = [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 20, 30, 30]} for n in range(1, 13)]
    marks += [{"id": 100 + n, "image_id": n, "category_id": 1, "bbox": [50, 50, 30, 30]} for n in range(1, 13)]
    await world.register(coco(rows, marks, ["cat"]), files, kind="OBJECT_DETECTION")
    finding = await world.found("boxesAtBorder")
    assert finding.severity == finding_pb2.Finding.INFO
    assert finding.message.startswith("12 of 24 boxes end at the border")


@pytest.mark.parametrize(
    ("code", "bbox", "declared"),
    [
        ("boxesLikeCentres", [90, 50, 20, 60], {}),
        ("boxesLikeCorners", [60, 60, 100, 100], {}),
        ("boxesTransposed", [70, 110, 30, 40], {"width": 200, "height": 100}),
        ("boxesLikeCornersYx", [60, 110, 100, 150], {"width": 200, "height": 100}),
        ("", [10, 70, 30, 30], {}),
    ],
)
async def test_boxes_are_judged_by_the_images_where_the_file_does_not_say_enough(
    world: World, code: str, bbox: list[float], declared: dict[str, int]
) -> None:
    files = {f"{n}.png": picture(n, side=100) for n in range(1, 7)}
    if declared:
        files = {name: make_image(200, 100, (40 * number, 90, 60)) for number, name in enumerate(files)}
    rows = [{"id": n, "file_name": f"{n}.png", **declared} for n in range(1, 7)]
    marks = [{"id": n, "image_id": n, "category_id": 1, "bbox": bbox} for n in range(1, 7)]
    dataset = await world.register(coco(rows, marks, ["cat"]), files, kind="OBJECT_DETECTION")
    assert dataset.state == (pb.Dataset.FAILED if code else pb.Dataset.READY)
    assert [one.code for one in await world.findings() if one.code.startswith("boxes")] == ([code] if code else [])


@pytest.mark.parametrize(
    ("code", "bbox", "declared"),
    [
        ("boxesLikePercent", [10, 20, 60, 70], [False] * 12),
        ("boxesLikePercent", [10, 20, 60, 70], [True] * 12),
        ("boxesLikePercent", [10, 20, 60, 70], [True] * 2 + [False] * 10),
        ("", [10, 20, 30, 30], [False] * 12),
        ("", [10, 20, 60, 90], [False] * 12),
        ("", [0.1, 0.2, 0.6, 0.7], [False] * 12),
    ],
)
async def test_boxes_in_percent_are_found_out_whether_or_not_the_file_declares_sides(
    world: World, code: str, bbox: list[float], declared: list[bool]
) -> None:
    files = {f"{n}.png": make_image(300, 200, (20 * n, 90, 60)) for n in range(12)}
    sides = {"width": 300, "height": 200}
    rows = [{"id": n, "file_name": f"{n}.png", **(sides if known else {})} for n, known in enumerate(declared)]
    marks = [{"id": n, "image_id": n, "category_id": 1, "bbox": bbox} for n in range(12)]
    dataset = await world.register(coco(rows, marks, ["cat"]), files, kind="OBJECT_DETECTION")
    assert dataset.state == (pb.Dataset.FAILED if code else pb.Dataset.READY)
    assert [one.code for one in await world.findings() if one.code.startswith("boxesL")] == ([code] if code else [])


async def test_categories_with_few_images_are_named_together(world: World) -> None:
    await world.register(*tagged(24))
    assert [finding.code for finding in await world.findings()] == []
    await world.register(*tagged(18), name="few")
    finding = await world.found("categoriesSmall", "few")
    assert finding.message == "2 categories have fewer than 10 usable images: c1, c2."


def test_overlaps_are_intersections_over_unions() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [0, 0, 10, 10], [20, 20, 5, 5], [3, 3, 0, 0]], np.float64)
    expected = [[1, 1 / 3, 1, 0, 0], [1 / 3, 1, 1 / 3, 0, 0], [1, 1 / 3, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert np.allclose(overlaps(boxes), expected)


# What a person sees there: cells of `bccd` with two boxes each; kernels of `maize_kernels` at the
# edges of tiles. All other sets are clean.
REAL = {
    "bccd": {"boxDoubled": 6},
    "fork_scissors": {},
    "kuih": {},
    "maize_kernels": {"boxesAtBorder": 1},
    "pcb_defects": {},
    "raccoon": {},
    "traffic_lights": {},
}


@pytest.mark.parametrize("name", sorted(REAL))
async def test_boxes_of_real_sets_are_only_accused_of_what_is_true(world: World, test_data: Path, name: str) -> None:
    files = {f"images/{path.name}": path.read_bytes() for path in (test_data / name / "images").iterdir()}
    await real(world, test_data / name, "pets", "train.json", files)
    assert Counter(finding.code for finding in await world.findings() if finding.code in CODES) == REAL[name]
