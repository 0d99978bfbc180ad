"""Values in COCO files are read as they are meant, and every fault is reported at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.dataset.categories import Categories
from services.dataset.coco import CocoCategory, CocoFile, box_of, parse
from services.dataset.findings import FindingLog
from services.dataset.repair import whole

CATEGORIES = [{"id": 1, "name": "fork"}, {"id": 2, "name": "scissors"}]


def read(**content: Any) -> tuple[CocoFile, FindingLog]:
    log = FindingLog(100)
    file = parse(json.dumps({"categories": CATEGORIES, **content}).encode(), "f", log)
    assert file is not None, log.kept
    return file, log


@pytest.mark.parametrize("one", [1, 1.0, "1", "1.0", " 1 "])
def test_a_whole_number_may_be_written_in_any_way(one: object) -> None:
    images = [{"id": one, "file_name": "a.jpg", "width": "640", "height": 480.0}]
    marks = [
        {
            "id": one,
            "image_id": one,
            "category_id": one,
            "bbox": ["1", 2, 3.5, "4"],
            "iscrowd": 0.0,
            "segmentation": None,
        }
    ]
    file, log = read(images=images, annotations=marks)
    (image,), (mark,) = file.images, file.annotations
    assert (image.id, image.width, image.height) == (1, 640, 480)
    assert (mark.id, mark.image_id, mark.category_id, mark.iscrowd) == (1, 1, 1, 0)
    assert [finding.code for finding in log.kept] == ["valuesConverted"]


@pytest.mark.parametrize("value", [1.5, -1, "x", "", True, None, [1], "1_0", "١", 1e40, "inf", 10**400, "9" * 400])
def test_nothing_else_is_taken_for_a_whole_number(value: object) -> None:
    assert whole(value) is None


@pytest.mark.parametrize("side", [10**400, "9" * 400])
def test_a_side_with_more_digits_than_a_number_has_is_reported_and_left_out(side: object) -> None:
    file, log = read(images=[{"id": 1, "file_name": "a.jpg", "width": side, "height": 48}])
    assert (file.images[0].width, file.images[0].height) == (None, 48)
    assert "imageSideInvalid" in [finding.code for finding in log.kept]


@pytest.mark.parametrize("large", ["1e400", "-1e400", "[1e400]", '{"a": [1e400]}'])
@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("width", "imageSideInvalid"),
        ("image_id", "annotationValueInvalid"),
        ("category_id", "annotationValueInvalid"),
        ("iscrowd", "annotationValueInvalid"),
    ],
)
def test_a_number_that_is_too_large_spoils_its_entry_alone(field: str, code: str, large: str) -> None:
    images: list[dict[str, Any]] = [{"id": n, "file_name": f"{n}.jpg", "width": 80} for n in (1, 2)]
    marks: list[dict[str, Any]] = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]} for n in (1, 2)]
    (images if field == "width" else marks)[0][field] = "LARGE"
    text = json.dumps({"images": images, "annotations": marks, "categories": CATEGORIES}).replace('"LARGE"', large)
    log = FindingLog(100)
    file = parse(text.encode(), "f", log)
    assert file is not None
    assert (file.images[1].width, file.annotations[-1].image_id, len(file.images)) == (80, 2, 2)
    assert code in [finding.code for finding in log.kept]


def test_a_box_with_a_number_that_is_too_large_is_told_apart_from_others_of_a_file_that_was_mended() -> None:
    text = json.dumps(
        {
            "images": [{"id": "1", "file_name": "1.jpg"}],
            "annotations": [{"image_id": "1", "category_id": 1, "bbox": box} for box in ("LARGE", [1, 2, 3, 4])],
            "categories": CATEGORIES,
        }
    )
    file = parse(text.replace('"LARGE"', "[1, 1e400, 3, 4]").encode(), "f", FindingLog(100))
    assert file is not None
    assert [box_of(mark) for mark in file.annotations] == ["has a number that is too large", (1, 2, 3, 4)]


def test_ids_that_are_names_are_replaced_by_numbers_that_no_other_entry_has() -> None:
    images = [{"id": "b.jpg", "file_name": "b.jpg"}, {"id": 4, "file_name": "c.jpg"}, {"file_name": "d.jpg"}]
    marks = [
        {"id": "m1", "image_id": "b.jpg", "category_id": "cat-1"},
        {"id": "m2", "image_id": "4", "category_id": "scissors"},
    ]
    categories = [{"id": "cat-1", "name": "fork"}, {"id": "cat-2", "name": "scissors"}]
    file, log = read(images=images, annotations=marks, categories=categories)
    ids = [image.id for image in file.images]
    assert ids[1] == 4
    assert len(set(ids)) == 3
    names = {category.id: category.name for category in file.categories}
    assert [(mark.image_id, names[mark.category_id or 0]) for mark in file.annotations] == [
        (ids[0], "fork"),
        (4, "scissors"),
    ]
    assert sorted(finding.message.split("`")[1] for finding in log.kept if finding.code == "idsReplaced") == [
        "annotations",
        "categories",
        "images",
    ]


@pytest.mark.parametrize("written", [lambda n: -n, lambda n: f"-{n}", lambda n: n + 2**64, lambda n: f"{n + 2**64}"])
def test_ids_that_are_numbers_outside_cocos_are_replaced_wherever_they_are_written(
    written: Callable[[int], object],
) -> None:
    images = [{"id": written(number), "file_name": f"{number}.jpg"} for number in (1, 2)]
    categories = [{"id": written(number), "name": name} for number, name in ((1, "fork"), (2, "spoon"))]
    marks = [{"id": written(n), "image_id": written(n), "category_id": written(n)} for n in (2, 1)]
    file, log = read(images=images, annotations=marks, categories=categories)
    files = {image.id: image.file_name for image in file.images}
    names = {category.id: category.name for category in file.categories}
    assert [(files[mark.image_id], names[mark.category_id or 0]) for mark in file.annotations] == [
        ("2.jpg", "spoon"),
        ("1.jpg", "fork"),
    ]
    assert log.refused_annotations == 0


def test_an_annotation_is_never_given_to_an_image_that_got_the_number_it_names() -> None:
    images = [{"file_name": "a.jpg"}, {"id": "b", "file_name": "b.jpg"}]
    marks = [{"id": number, "image_id": number, "category_id": 1} for number in range(3)]
    file, _ = read(images=images, annotations=marks)
    assert not {mark.image_id for mark in file.annotations} & {image.id for image in file.images}


def test_an_image_may_be_named_by_its_file() -> None:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
    marks = [{"id": 1, "image_id": "2.jpg", "category_id": 1}]
    file, _ = read(images=images, annotations=marks)
    assert [mark.image_id for mark in file.annotations] == [2]


def test_an_image_may_be_named_by_its_file_without_the_folder() -> None:
    names = {1: "a/1.jpg", 2: "a/2.jpg", 3: "b/2.jpg", 4: "c\\\\4.jpg"}
    images = [{"id": number, "file_name": name} for number, name in names.items()]
    marks = [{"id": 1, "image_id": name, "category_id": 1} for name in ("1.jpg", "2.jpg", "b/2.jpg", "4.jpg")]
    file, log = read(images=images, annotations=marks)
    assert [mark.image_id for mark in file.annotations] == [1, 3, 4]
    assert [one.code for one in log.kept].count("annotationValueInvalid") == 1


@pytest.mark.parametrize(("crowd", "meant"), [("true", 1), ("False", 0), ("", 0), (" 1 ", 1), (True, 1), (None, 0)])
def test_a_flag_may_be_written_in_any_way(crowd: object, meant: int) -> None:
    marks = [{"id": "1", "image_id": 1, "category_id": 1, "iscrowd": crowd}]
    file, _ = read(images=[{"id": 1, "file_name": "a.jpg"}], annotations=marks)
    assert [mark.iscrowd for mark in file.annotations] == [meant]


def test_every_faulty_annotation_is_reported_with_its_image_and_id_and_the_others_are_kept() -> None:
    marks = [
        {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": "maybe"},
        {"id": 2, "image_id": 1, "category_id": "spoon"},
        {"id": 3, "image_id": "gone.jpg", "category_id": 1},
        {"id": 4, "image_id": 1, "category_id": 2},
    ]
    images = [{"id": 1, "file_name": "a.jpg", "width": "wide"}]
    file, log = read(images=images, annotations=marks)
    assert [mark.id for mark in file.annotations] == [4]
    assert [(one.code, one.image_id, one.annotation_id, one.message) for one in log.kept] == [
        ("imageSideInvalid", 1, None, "The image's width is 'wide', not a number; it was ignored."),
        ("annotationValueInvalid", 1, 1, "The annotation's iscrowd is 'maybe', not 0 or 1."),
        ("annotationValueInvalid", 1, 2, "The annotation's category_id is 'spoon', not the id of a category."),
        ("annotationValueInvalid", None, 3, "The annotation's image_id is 'gone.jpg', not the id of an image."),
    ]
    assert log.refused_annotations == 3
    assert log.fatal is None


def merged(names: dict[int, str], used: set[int]) -> tuple[list[tuple[int, str]], list[str]]:
    log, categories = FindingLog(10), Categories()
    categories.merge([CocoCategory(id_, name) for id_, name in names.items()], "f", log, used)
    return categories.names, [finding.code for finding in log.kept]


@pytest.mark.parametrize(
    ("names", "used", "kept", "codes"),
    [
        ({0: "cutlery", 1: "fork", 2: "spoon"}, {1, 2}, [(1, "fork"), (2, "spoon")], ["categoriesUnused"]),
        ({0: "fork", 1: "fork"}, {1}, [(1, "fork")], ["categoriesUnused"]),
        ({0: "fork", 1: "fork "}, {0, 1}, [(0, "fork")], ["categoriesMerged"]),
        ({0: "Mu\u0308ll"}, {0}, [(0, "Müll")], []),
        ({0: "fork", 1: "spoon"}, set[int](), [(0, "fork"), (1, "spoon")], []),
        ({0: "fo\u200brk"}, {0}, [(0, "fo\u200brk")], ["categoryNameInvalid"]),
        ({0: "fo\u0007rk"}, {0}, [(0, "fo\u0007rk")], ["categoryNameInvalid"]),
        ({0: "fo\u200drk"}, {0}, [(0, "fo\u200drk")], ["categoryNameInvalid"]),
        ({0: "👩\u200d🔬", 1: "می\u200cخواهم"}, {0, 1}, [(0, "👩\u200d🔬"), (1, "می\u200cخواهم")], []),
        ({0: " "}, {0}, [(0, "")], ["categoryNameMissing"]),
    ],
)
def test_categories(names: dict[int, str], used: set[int], kept: list[tuple[int, str]], codes: list[str]) -> None:
    assert merged(names, used) == (kept, codes)


def test_a_category_may_be_declared_twice_in_the_same_words() -> None:
    log, categories = FindingLog(10), Categories()
    declared = [CocoCategory(1, "fork"), CocoCategory(1, "fork "), CocoCategory(2, "spoon")]
    assert categories.merge(declared, "f", log, {1, 2}) == {1: 0, 2: 1}
    assert not log.kept
