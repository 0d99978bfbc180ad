"""Boxes that are not [x, y, width, height] are recognised, and those that are never refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.dataset.boxes import Frame, Xywh
from services.dataset.coco import parse
from services.dataset.convention import READINGS, Ends, Tally, check_reading, judge
from services.dataset.domain import BoxConvention
from services.dataset.findings import FindingLog
from services.dataset.reading import columns_of
from services.dataset.units import check_convention

SETS = ("bccd", "fork_scissors", "kuih", "maize_kernels", "pcb_defects", "raccoon", "traffic_lights")
Box = list[float]
Convert = Callable[[Box, float, float], Box]

WRITTEN: list[tuple[str, Convert]] = [
    ("boxesLikeCorners", lambda b, w, h: [b[0], b[1], b[0] + b[2], b[1] + b[3]]),
    ("boxesLikeCorners", lambda b, w, h: [b[0] + b[2], b[1] + b[3], b[0], b[1]]),
    ("boxesLikeCentres", lambda b, w, h: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]]),
    ("boxesFromBottom", lambda b, w, h: [b[0], h - b[1], b[2], b[3]]),
]
# No box of these sets is near enough to an edge to tell: they fit their images in either reading.
UNDECIDABLE = {
    ("traffic_lights", part, code) for part in ("train", "test") for code in ("boxesLikeCentres", "boxesFromBottom")
} | {("pcb_defects", "test", "boxesFromBottom")}


def found(content: dict[str, Any]) -> list[str]:
    """The codes of the findings about the boxes of a file."""
    log = FindingLog(10)
    file = parse(json.dumps(content).encode(), "f", log)
    assert file is not None
    columns = columns_of(file, boxes=True)
    check_reading(columns, "f", check_convention(columns, "f", BoxConvention.UNKNOWN, log), log)
    return [finding.code for finding in log.kept]


def written(content: dict[str, Any], convert: Convert, *, fractions: bool = False) -> dict[str, Any]:
    """A file with its boxes written in another way, as pixels or fractions."""
    sides = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    marks: list[dict[str, Any]] = []
    for mark in content["annotations"]:
        width, height = sides[mark["image_id"]]
        x, y, w, h = convert(mark["bbox"], width, height)
        across, down = (width, height) if fractions else (1, 1)
        marks.append({**mark, "bbox": [x / across, y / down, w / across, h / down]})
    return {**content, "annotations": marks}


def tallied(content: dict[str, Any], convert: Convert) -> str | None:
    """The code of the verdict about boxes that are judged by their images alone."""
    sides = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    tally = Tally()
    for mark in written(content, convert)["annotations"]:
        x, y, w, h = mark["bbox"]
        tally.add((x, y, w, h), Frame(*sides[mark["image_id"]]), range(len(READINGS)))
    verdict = tally.verdict()
    return verdict and verdict.reading.code


@pytest.mark.real_data
@pytest.mark.parametrize("fractions", [False, True])
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", SETS)
def test_real_sets_are_accepted_as_they_are_and_found_out_in_every_other_convention(
    test_data: Path, name: str, part: str, fractions: bool
) -> None:
    content = json.loads((test_data / name / f"{part}.json").read_text())
    assert found(written(content, lambda b, w, h: b, fractions=fractions)) == []
    for code, convert in WRITTEN:
        codes = found(written(content, convert, fractions=fractions))
        assert codes == ([] if (name, part, code) in UNDECIDABLE else [code])


def test_boxes_that_annotators_drew_over_the_right_and_bottom_edges_are_no_evidence() -> None:
    frame = Frame(100, 100)
    inside = [((float(n), float(n), 20.0, 20.0), frame) for n in range(5, 75, 5)]
    over = [((70.0, 70.0, 32.0, 32.0), frame)] * 12
    at_the_left = [((2.0, 40.0, 30.0, 30.0), frame)] * 3
    assert judge([*inside, *over, *at_the_left]).verdict() is None


def test_boxes_of_photos_whose_sides_are_given_unturned_are_no_evidence() -> None:
    stored, upright = Frame(400, 300), (10.0, 200.0, 250.0, 190.0)
    assert judge([(upright, stored)] * 20).verdict() is None


def test_empty_boxes_are_no_evidence() -> None:
    assert judge([((60.0, 50.0, 0.0, 0.0), Frame(100, 100))] * 20).verdict() is None


def test_a_few_boxes_are_no_evidence_and_no_boxes_none() -> None:
    assert judge([((60.0, 60.0, 90.0, 90.0), Frame(100, 100))] * 3).verdict() is None
    assert judge([]).verdict() is None


@pytest.mark.real_data
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", SETS)
def test_real_sets_in_percent_of_the_sides_are_found_out(test_data: Path, name: str, part: str) -> None:
    content = json.loads((test_data / name / f"{part}.json").read_text())

    def percent(box: Box, width: float, height: float) -> Box:
        return [100 * value / side for value, side in zip(box, 2 * (width, height), strict=True)]

    assert found(written(content, percent)) == ["boxesLikePercent"]


@pytest.mark.parametrize(
    ("boxes", "percent"),
    [
        ([((10.0, 20.0, 30.0, 60.0), 200)] * 10, True),
        ([((10.0, 20.0, 30.0, 60.0), 200)] * 9, False),
        ([((10.0, 20.0, 30.0, 60.0), 199)] * 10, False),
        ([((10.0, 10.0, 30.0, 30.0), 200)] * 10, False),
        ([*[((10.0, 20.0, 30.0, 60.0), 200)] * 10, ((10.0, 10.0, 95.0, 5.0), 0)], False),
    ],
)
def test_boxes_are_in_percent_if_they_all_end_within_100_pixels_of_larger_images(
    boxes: list[tuple[Xywh, float]], percent: bool
) -> None:
    ends = Ends()
    for box, smaller_side in boxes:
        ends.add(box, smaller_side)
    assert ends.are_percent == percent


@pytest.mark.real_data
@pytest.mark.parametrize("name", SETS)
def test_boxes_of_real_sets_are_accepted_once_the_images_are_read(test_data: Path, name: str) -> None:
    content = json.loads((test_data / name / "train.json").read_text())
    assert tallied(content, lambda b, w, h: b) is None


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["bccd", "fork_scissors", "raccoon"])  # the images of the others are square
def test_real_sets_without_sides_or_with_y_before_x_are_found_out_once_the_images_are_read(
    test_data: Path, name: str
) -> None:
    content = json.loads((test_data / name / "train.json").read_text())
    transposed: list[tuple[str, Convert]] = [
        ("boxesTransposed", lambda b, w, h: [b[1], b[0], b[3], b[2]]),
        ("boxesLikeCornersYx", lambda b, w, h: [b[1], b[0], b[1] + b[3], b[0] + b[2]]),
    ]
    for code, convert in (*transposed, *WRITTEN):
        assert tallied(content, convert) == code
