"""COCO files: where images are located, the unit of boxes, and how much memory large files take."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dataset.categories import Categories
from services.dataset.coco import CocoAnnotation, CocoCategory, CocoFile, CocoImage, Place, box_of, parse
from services.dataset.columns import Columns
from services.dataset.cutting import cut
from services.dataset.domain import BoxConvention
from services.dataset.finding_rules import RULES, Severity
from services.dataset.findings import FindingLog, make
from services.dataset.ids import check_ids
from services.dataset.reading import columns_of, read
from services.dataset.rows import Row
from services.dataset.units import check_convention
from services.kit.errors import UnreadableUri
from services.kit.reach import Reach

PLACE = Place("s3://sightline/sets/a/train.json", "sets/a/train.json", "sightline", reach=Reach.parse("*"))
PIXELS, RELATIVE, UNKNOWN = BoxConvention.ABSOLUTE, BoxConvention.RELATIVE, BoxConvention.UNKNOWN


def rows(file: Columns, place: Place, log: FindingLog, categories: dict[int, int] | None = None) -> list[Row]:
    links = check_ids(file, "f", categories or {}, log)
    return [row for piece in cut(file, place, links, 0, (7, 1000), log) for row in piece]


def located(**fields: Any) -> str:
    return PLACE.locate(CocoImage(1, **fields))


@given(st.text("aZ0_. -/\\:%\u00e9\u200b", max_size=12), st.sampled_from(["sets/a/", "", "uploads/u/", "a b/.c/"]))
def test_a_row_has_the_key_that_locating_its_image_gives(name: str, folder: str) -> None:
    place = Place("s3://sightline/x", f"{folder}train.json", "sightline", reach=Reach.parse("sets/"))
    image = CocoImage(1, file_name=name)
    try:
        expected = [place.locate(image)] if name else []
    except (ValueError, UnreadableUri):
        expected = []
    log = FindingLog(10)
    found = [row.key for row in rows(columns_of(CocoFile([image]), boxes=False), place, log)]
    assert found == expected
    assert len(log.kept) == 1 - len(expected)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"file_name": "x.png"}, "sets/a/x.png"),
        ({"file_name": "./b//x.png"}, "sets/a/b/x.png"),
        ({"file_name": "b\\x.png"}, "sets/a/b/x.png"),
        ({"file_name": "x:12_y:5.jpg"}, "sets/a/x:12_y:5.jpg"),
        ({"file_name": "s3://sightline/other/x.png"}, "other/x.png"),
        ({"file_name": "x.png", "coco_url": "http://images.example.org/x.png"}, "sets/a/x.png"),
        ({"file_name": "x.png", "absolute_url": "s3://sightline/other/x.png"}, "other/x.png"),
        ({"coco_url": "s3://sightline/other/x.png"}, "other/x.png"),
    ],
)
def test_an_image_is_located_relative_to_its_file_or_by_a_uri_of_the_store(fields: dict[str, str], key: str) -> None:
    assert located(**fields) == key


@given(st.text(max_size=40))
def test_no_file_name_leads_out_of_the_folder(name: str) -> None:
    try:
        key = located(file_name=name)
    except (UnreadableUri, ValueError):
        return
    assert key.startswith("sets/a") or name.startswith("s3://sightline/")
    assert ".." not in key.split("/")


def convention(*boxes: object, expected: BoxConvention = UNKNOWN) -> tuple[BoxConvention, int]:
    marks = [CocoAnnotation(1, number, 1, msgspec.Raw(json.dumps(box).encode())) for number, box in enumerate(boxes)]
    log = FindingLog(10)
    unit = check_convention(columns_of(CocoFile([], marks), boxes=True), "f", expected, log)
    assert (log.fatal is not None) == bool(log.kept)
    return unit, log.count("boxUnitsMixed") + 100 * log.count("boxUnitsDiffer")


def test_the_unit_of_boxes_is_detected_and_mixtures_are_rejected() -> None:
    assert convention() == (UNKNOWN, 0)
    assert convention([0, 0, 1, 1]) == (RELATIVE, 0)
    assert convention([0, 0, 1, 1], [5, 5, 9, 9]) == (PIXELS, 0)
    assert convention([0.5, 0.5, 0.5, 0.5005]) == (RELATIVE, 0)
    assert convention([0.5, 0.5, 20.5, 0.5]) == (PIXELS, 0)
    assert convention([0.5, 0.5, 0.1, 0.1], [5, 5, 9, 9], [6, 6, 9, 9]) == (PIXELS, 1)
    assert convention([5, 5, 9, 9], [0.5, 0.5, 0.1, 0.1], [0.1, 0.5, 0.1, 0.1]) == (RELATIVE, 1)


def test_a_file_in_another_unit_than_earlier_files_is_reported_once() -> None:
    assert convention([0.5, 0.5, 0.1, 0.1], [0.1, 0.1, 0.2, 0.2], expected=PIXELS) == (PIXELS, 100)
    assert convention([5, 5, 9, 9], [6, 6, 7, 7], expected=RELATIVE) == (RELATIVE, 100)
    assert convention(expected=RELATIVE) == (RELATIVE, 0)
    assert convention([0, 0, 1, 1], expected=PIXELS) == (PIXELS, 0)


def test_malformed_or_overhanging_boxes_do_not_affect_the_unit() -> None:
    relative, pixel = [0.1, 0.1, 0.2, 0.2], [10, 10, 20, 20]
    for other in ([0.5, 0.5, 1.4, 0.2], [1e308, 1e308, 1e308, 1e308], [50, 50, 0, 9], [1, 2, 3], "0.1,0.1", None):
        assert convention(relative, other) == (RELATIVE, 0)
    for other in ([0.5, 0.5, 0, 0], [0.3, 0.3, -0.1, 0.2], [1.5, 1.5, 1.5, 1.5], {"x": 0.5}, [True, 1, 1, 1]):
        assert convention(pixel, other) == (PIXELS, 0)


def test_categories_of_several_files_are_merged_by_name() -> None:
    log, merged = FindingLog(10), Categories()
    assert merged.merge([CocoCategory(7, "dog"), CocoCategory(3, "cat")], "f", log) == {3: 0, 7: 1}
    assert merged.merge([CocoCategory(3, "dog"), CocoCategory(7, "cow")], "g", log) == {3: 1, 7: 2}
    assert merged.names == [(3, "cat"), (7, "dog"), (8, "cow")]
    assert not log.kept


@given(st.binary(max_size=60))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    log = FindingLog(10)
    assert (parse(data, "f", log) is None) == (log.fatal is not None)


@given(st.sampled_from(["NaN", "Infinity", "-Infinity"]), st.integers(0, 5), st.integers(0, 5))
def test_a_number_that_is_not_finite_is_reported_with_its_place(token: str, lines: int, spaces: int) -> None:
    data = '{"images": [],' + "\n" * lines + " " * spaces + f'"x": {token}' + "}"
    log = FindingLog(10)
    assert parse(data.encode(), "f", log) is None
    found = log.fatal
    assert found
    column = spaces + 6 + (len('{"images": [],') if lines == 0 else 0)
    assert found.message == f"{token} at line {lines + 1}, column {column} is not a JSON number."


def test_findings_beyond_the_limit_of_their_code_are_counted_and_reported() -> None:
    log = FindingLog(2)
    for number in range(5):
        log.add("imageUntagged", f"{number}.png", number)
    log.add("imageAnimated", "0.png", 0)
    listed = log.ordered()
    assert [finding.file for finding in listed] == ["0.png", "1.png", "", "0.png"]
    assert listed[2].message == "3 more like these are not listed."
    other = FindingLog(2)
    other.take(log.kept, log.more)
    assert other.count("imageUntagged") == 5


def test_every_rule_is_in_full_sentences_and_only_errors_are_fatal() -> None:
    assert RULES
    for rule in RULES.values():
        assert rule.message.endswith(".")
        assert rule.remedy.endswith(".")
        assert rule.severity is Severity.ERROR or not rule.fatal


def test_a_large_file_is_read_in_hardly_more_memory_than_its_size(tmp_path: Path) -> None:
    count = 60_000
    file = {
        "images": [{"id": n, "file_name": f"images/{n:07d}.jpg", "width": 640, "height": 480} for n in range(count)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1} for n in range(count)],
        "categories": [{"id": 1, "name": "c"}],
    }
    walked, peak, size = cut_traced(tmp_path / "f", json.dumps(file).encode(), boxes=False)
    assert walked == (count, count)
    assert peak < 1.5 * size


ENTRY = {"images": '{"id":1}', "annotations": '{"image_id":1}', "categories": '{"id":1}'}
HOSTILE = {
    "images": lambda size: f'{{"images":[{",".join([ENTRY["images"]] * (size // 9))}]}}',
    "annotations": lambda size: f'{{"images":[],"annotations":[{",".join([ENTRY["annotations"]] * (size // 15))}]}}',
    "categories": lambda size: f'{{"images":[],"categories":[{",".join([ENTRY["categories"]] * (size // 9))}]}}',
    "arrays in a box": lambda size: (
        f'{{"images":[],"annotations":[{{"image_id":1,"bbox":[{",".join(["[]"] * (size // 3))}]}}]}}'
    ),
    "numbers in a box": lambda size: (
        f'{{"images":[],"annotations":[{{"image_id":1,"bbox":[{",".join("7" * (size // 2))}]}}]}}'
    ),
    "boxes": lambda size: (
        f'{{"images":[],"annotations":[{",".join(["""{"image_id":1,"bbox":[1,2,3,4]}"""] * (size // 32))}]}}'
    ),
    "a name": lambda size: f'{{"images":[{{"id":1,"file_name":"{"n" * size}\U0001f426"}}]}}',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_file_takes_more_than_a_bounded_multiple_of_its_size(kind: str, tmp_path: Path) -> None:
    path, log = tmp_path / "f", FindingLog(10)
    path.write_text(HOSTILE[kind](2_000_000))
    tracemalloc.start()
    try:
        columns = read(path, "f", log, boxes=True)
        assert columns
        check_convention(columns, "f", UNKNOWN, log)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * path.stat().st_size


def test_no_file_that_needs_repair_takes_more_either() -> None:
    """A value of another type anywhere made every value an object: arrays in a box took 24 times the file."""
    marks = ",".join('{"image_id":"1","x":[' + ",".join(["[]"] * 5_000) + "]}" for _ in range(10))
    long = '{"image_id":"1","bbox":[' + ",".join(["[]"] * 50_000) + "]}"
    small = ",".join(['{"image_id":"1"}'] * 10_000)
    data = f'{{"images":[{{"id":"1"}}],"annotations":[{marks},{long},{small}]}}'.encode()
    log = FindingLog(10)
    tracemalloc.start()
    try:
        parsed = parse(data, "f", log)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert parsed
    assert len(parsed.annotations) == 10_011
    assert box_of(parsed.annotations[10]) == "is longer than 1024 characters"
    assert peak < 10 * len(data)


@pytest.mark.parametrize(
    ("bbox", "problem"),
    [
        ("[" * 3 + "]" * 3, "has 1 value"),
        ("[" + "[]," * 1000 + "0]", "is longer than 1024 characters"),
        ("[1, 2, 3, 1e999]", "has a number that is too large"),
        ("[1, 2, 3, 1" + "0" * 400 + "]", "has a number that is too large"),
        ('["one", 2, 3, 4]', "has a string among its values"),
        ("[true, 2, 3, 4]", "has a boolean among its values"),
    ],
)
def test_a_malformed_box_spoils_no_other(bbox: str, problem: str) -> None:
    good = '{"image_id": 1, "bbox": [1, "2", 3.5, " 4.0 "]}'
    log = FindingLog(10)
    file = parse(f'{{"images": [], "annotations": [{{"image_id": 1, "bbox": {bbox}}}, {good}]}}'.encode(), "f", log)
    assert file
    assert [box_of(mark) for mark in file.annotations] == [problem, (1, 2, 3.5, 4)]


def test_many_categories_that_share_one_id_across_files_are_merged_in_linear_time() -> None:
    """With a set per category, 20,000 names took a minute."""
    log, merged = FindingLog(10), Categories()
    reads = 0

    class Counted(set[int]):
        def __contains__(self, value: object) -> bool:
            nonlocal reads
            reads += 1
            return super().__contains__(value)

    merged._taken = Counted()
    for number in range(300):
        merged.merge([CocoCategory(1, f"c{number}")], "f", log)
    assert [id_ for id_, _ in merged.names] == [*range(1, 301)]
    assert reads == 300


def test_boxes_of_a_large_file_are_read_in_twice_its_size(tmp_path: Path) -> None:
    count = 5_000
    marks = [
        {"id": 10 * n + k, "image_id": n, "category_id": 1, "bbox": [1.5 * k, 2.5, 30.25, 40.75]}
        for n in range(count)
        for k in range(10)
    ]
    images = [{"id": n, "file_name": f"images/{n:07d}.jpg", "width": 640, "height": 480} for n in range(count)]
    data = json.dumps({"images": images, "annotations": marks, "categories": [{"id": 1, "name": "c"}]}).encode()
    walked, peak, size = cut_traced(tmp_path / "f", data, boxes=True)
    assert walked == (count, 10 * count)
    assert peak < 2 * size


def cut_traced(path: Path, data: bytes, *, boxes: bool) -> tuple[tuple[int, int], int, int]:
    """How many images and annotations are in the pieces of a file, the memory that this took, and the file's size."""
    path.write_bytes(data)
    log, images, marks = FindingLog(10), 0, 0
    tracemalloc.start()
    try:
        columns = read(path, "f", log, boxes=boxes)
        assert columns
        if boxes:
            assert check_convention(columns, "f", UNKNOWN, log) is PIXELS
        links = check_ids(columns, "f", {1: 0}, log)
        for piece in cut(columns, PLACE, links, 0, (1000, 1000), log):
            images += len(piece)
            marks += len(piece.mark_ids) // 8
        return (images, marks), tracemalloc.get_traced_memory()[1], len(data)
    finally:
        tracemalloc.stop()


def test_a_finding_truncates_long_names() -> None:
    found = make("imagePathInvalid", "n" * 5000, path="p" * 5000, problem="is absolute")
    assert max(len(found.file), len(found.message)) < 1500
    assert found.message.endswith("…' is absolute.")
