"""COCO files as other tools write them: what can be meant is taken, what cannot is said before the upload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.importers.coco_merge import merged
from sightline.importers.image_files import ImagesUnresolved
from sightline.importers.masks import around_segmentation
from sightline.importers.model import BoxForm, ImportFault
from sightline.importers.package import pack
from sightline.importers.read import read
from tests.unit.importers import exports
from tests.unit.importers.test_formats import content, marks, told

POLYGON = [[8.0, 6.0, 48.0, 6.0, 28.0, 36.0]]


def coco(folder: Path, *annotations: dict[str, Any], **fields: Any) -> Path:
    """A COCO file with one image, and its annotations of the category cat."""
    exports.picture(folder / "1.jpg")
    marked = [{"id": number, "image_id": 1, "category_id": 1, **one} for number, one in enumerate(annotations, 1)]
    made = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 80, "height": 60}],
        "annotations": marked,
        "categories": [{"id": 1, "name": "cat"}],
        **fields,
    }
    (folder / "coco.json").write_text(json.dumps(made))
    return folder / "coco.json"


@pytest.mark.parametrize("bbox", [{}, {"bbox": None}, {"bbox": []}, {"bbox": [0, 0, 0, 0]}])
@pytest.mark.parametrize("segmentation", [POLYGON, POLYGON[0]])
def test_an_outline_without_a_box_gets_the_box_around_it(
    tmp_path: Path, bbox: dict[str, Any], segmentation: Any
) -> None:
    imported = read(coco(tmp_path, {"segmentation": segmentation, **bbox}))
    assert marks(pack(imported)) == {"1.jpg": [("cat", [8, 6, 40, 30])]}
    assert "1 annotation has no box; the box around the outline is used" in told(imported)


def test_the_box_around_an_outline_is_no_box_to_convert(tmp_path: Path) -> None:
    file = coco(tmp_path, {"segmentation": POLYGON}, {"bbox": [1, 2, 4, 8]})
    assert marks(pack(read(file), boxes=BoxForm.XYXY)) == {
        "1.jpg": [("cat", [8, 6, 40, 30]), ("cat", [1, 2, 3, 6])],
    }


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ({"size": [4, 5], "counts": [5, 2, 2, 2, 9]}, (1, 1, 2, 2)),
        ({"size": [4, 5], "counts": [6, 3, 11]}, (1, 0, 2, 4)),
        ({"size": [40, 30], "counts": "V:d0d000000T:7eE000^8"}, (8, 6, 15, 31)),  # written by pycocotools
        ({"size": [4, 5], "counts": [20]}, None),
        ({"size": [4, 5], "counts": "cut off in the middle o"}, None),
        ({"size": [], "counts": "PYd1"}, None),
        ({"size": [0.5, 1], "counts": [0, 5]}, None),
        ({"size": [4, 5], "counts": [1e400, 5]}, None),
        ({"size": [4, 5], "counts": [6, -3, 17]}, None),
        ([[]], None),
        ("mask.png", None),
    ],
)
def test_the_box_around_a_mask(segmentation: Any, box: Any) -> None:
    assert around_segmentation(segmentation) == box


@pytest.mark.parametrize(
    "outline", [[8, 6, None, 6, 48, 36], [8, 6, "x", 36], [8, 6, 48], [[8, 6, 48, 36], [8, None, 48, 36]]]
)
def test_an_outline_that_lacks_a_number_has_no_box(outline: Any) -> None:
    assert around_segmentation(outline) is None, "x and y after the gap would be taken for each other"


@pytest.mark.parametrize(
    ("encoding", "caption", "expected", "note"),
    [
        ("utf-8", "\U0001f600 c:\\ud83d", "\U0001f600 c:\\ud83d", ""),
        ("utf-8-sig", "é", "é", ""),
        ("utf-16", "é", "é", "coco.json is in UTF-16, and is uploaded in UTF-8"),
        ("utf-8", "cut \ud83d", "cut ?", "halves of characters in coco.json become question marks"),
        ("utf-8", "\ude00 cut", "? cut", "halves of characters in coco.json become question marks"),
    ],
)
def test_a_file_that_is_not_json_for_everybody_is_uploaded_as_json(
    tmp_path: Path, encoding: str, caption: str, expected: str, note: str
) -> None:
    file = coco(tmp_path, {"bbox": [1, 2, 3, 4], "caption": caption})
    file.write_text(file.read_text(), encoding)
    imported = read(file)
    (uploaded,) = pack(imported).annotation_files()
    sent = file.read_bytes().decode("utf-8-sig") if uploaded.content is None else uploaded.content.decode()
    assert json.loads(sent)["annotations"][0]["caption"] == expected
    assert imported.notes == ((note,) if note else ())
    assert (uploaded.content is not None) == bool(note)


def test_numbers_that_are_too_large_are_left_out_of_what_is_written_anew(tmp_path: Path) -> None:
    file = coco(tmp_path, {"bbox": [1, 2, 3, 4], "area": 7}, images=[{"id": 1, "file_name": ".\\1.jpg"}])
    file.write_text(file.read_text().replace("7", "1e400"))
    written = content(pack(read(file)))
    assert (written["images"][0]["file_name"], written["annotations"][0]["area"]) == ("1.jpg", None)


def test_numbers_that_are_not_json_count_as_missing(tmp_path: Path) -> None:
    file = coco(tmp_path, {"bbox": [1, 2, 3, 4], "area": float("nan"), "score": float("-inf")})
    imported = read(file)
    written = content(pack(imported))
    assert (written["annotations"][0]["area"], written["annotations"][0]["bbox"]) == (None, [1, 2, 3, 4])
    assert "NaN and Infinity in coco.json count as missing values" in told(imported)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"categories": {"1": "cat"}}, "`categories` is an object, not a list"),
        ({"categories": ["cat"]}, "1 entry of `categories` is not an object"),
        ({"categories": []}, "`categories` lists nothing"),
        ({"annotations": {"1": {}}}, "`annotations` is an object, not a list"),
        ({"images": {"1": {}}}, "`images` is an object, not a list"),
        ({"categories": [{"id": 1}]}, "category 1 has no name"),
    ],
)
def test_sections_of_another_form_are_said_before_the_upload(
    tmp_path: Path, fields: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ImportFault) as caught:
        read(coco(tmp_path, {"bbox": [1, 2, 3, 4]}, **fields))
    assert caught.value.faults == (fault,)


@pytest.mark.parametrize("image_id", [1, 1.0, "1", "001", "1.jpg"])
@pytest.mark.parametrize("category_id", [1, "1.0", "cat"])
def test_annotations_are_counted_as_the_service_reads_them(tmp_path: Path, image_id: Any, category_id: Any) -> None:
    file = coco(tmp_path, {"image_id": image_id, "category_id": category_id, "bbox": [1, 2, 3, 4]})
    assert read(file).counts == {"cat": (1, 1)}


def test_annotations_that_name_their_image_by_a_name_that_changes_keep_it(tmp_path: Path) -> None:
    images = [{"id": "b", "file_name": ".\\1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    exports.picture(tmp_path / "2.jpg")
    named = [
        {"image_id": ".\\1.jpg"},
        {"image_id": "b"},
        {"image_id": "2.jpg"},
        {"image_id": "3.jpg"},
        {"image_id": None},
    ]
    written = content(pack(read(coco(tmp_path, *named, images=images))))
    assert [image["file_name"] for image in written["images"]] == ["1.jpg", "2.jpg"]
    assert [mark["image_id"] for mark in written["annotations"]] == ["b", "b", 2, "3.jpg", None]


@pytest.mark.parametrize(
    ("name", "fault"),
    [("ca\u200bt", r"'ca\u200bt' has the invisible character U+200B"), ("c" * 257, "has more than 256 characters")],
)
def test_a_name_that_the_service_refuses_is_said_before_the_upload(tmp_path: Path, name: str, fault: str) -> None:
    file = coco(tmp_path, {"bbox": [1, 2, 3, 4]}, categories=[{"id": 1, "name": name}])
    with pytest.raises(ImportFault, match="names of categories cannot be used") as caught:
        pack(read(file))
    assert caught.value.faults[0].endswith(fault)


def test_images_without_a_file_and_files_that_are_elsewhere_are_told(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2}, {"id": 3, "file_name": "https://host/get?file=3.jpg"}]
    imported = read(coco(tmp_path, images=images))
    assert "left out: 1 image of coco.json without a file_name" in told(imported)
    with pytest.raises(ImagesUnresolved) as caught:
        pack(imported)
    assert "is a URL" in caught.value.images[0].problem
    assert "--url PREFIX=DIR" in caught.value.images[0].problem


@pytest.mark.parametrize("field", ["coco_url", "absolute_url"])
def test_a_file_that_is_here_is_uploaded_although_it_has_a_uri_in_a_store(tmp_path: Path, field: str) -> None:
    here = {"id": 1, "file_name": "1.jpg", field: "s3://bucket/1.jpg"}
    there = {"id": 2, "file_name": "2.jpg", field: "s3://bucket/2.jpg"}
    imported = read(coco(tmp_path, images=[here, there]))
    package = pack(imported)
    assert [placed.path for placed in package.placed] == ["1.jpg"]
    assert content(package)["images"] == [{"id": 1, "file_name": "1.jpg"}, there]
    assert "1 image has an s3:// uri; it is ignored" in told(imported)


@pytest.mark.parametrize(
    ("name", "files", "path"),
    [(" 1.jpg", [" 1.jpg", "1.jpg"], " 1.jpg"), (" 1.jpg", ["1.jpg"], "1.jpg"), ("1.jpg ", ["a/1.jpg"], "a/1.jpg")],
)
def test_blanks_around_a_files_name_may_be_part_of_it(tmp_path: Path, name: str, files: list[str], path: str) -> None:
    file = exports.coco_file(tmp_path / "coco.json", [name])
    exports.pictures(tmp_path, files)
    assert [placed.path for placed in pack(read(file)).placed] == [path]


def test_a_link_to_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    file = coco(tmp_path, images=[{"id": 1, "file_name": "1.jpg"}])
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "1.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ImagesUnresolved) as caught:
        pack(read(file))
    assert "is a link to a file that does not exist" in caught.value.images[0].problem


def test_a_path_that_is_too_long_below_the_uploads_prefix_is_told(tmp_path: Path) -> None:
    name = "/".join(["d" * 200] * 4 + ["e" * 190, "1.jpg"])
    file = coco(tmp_path, images=[{"id": 1, "file_name": name}])
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / "1.jpg").rename(tmp_path / name)
    with pytest.raises(ImagesUnresolved) as caught:
        pack(read(file))
    assert "the path is longer than 1024 bytes" in caught.value.images[0].problem


def test_a_file_with_a_line_end_in_its_name_is_uploaded_under_another(tmp_path: Path) -> None:
    file = coco(tmp_path, {}).rename(tmp_path / "a\n\u200bb.json")
    assert [one.path for one in pack(read(file)).annotation_files()] == ["a__b.json"]


def test_an_image_may_be_named_by_its_file_without_the_folder(tmp_path: Path) -> None:
    exports.picture(tmp_path / "a" / "1.jpg")
    images = [{"id": 7, "file_name": "a/1.jpg"}]
    file = coco(tmp_path, {"image_id": "1.jpg"}, images=images)
    assert read(file).counts["cat"] == (1, 1)


@pytest.mark.parametrize(("text", "says"), [("[1, 2]", "JSON with a list of 2"), ('{"a": 1}', "JSON with a")])
def test_json_that_is_something_else_is_said_to_be(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ImportFault, match="was not recognised") as caught:
        read(tmp_path / "x.json")
    assert says in caught.value.message


def test_files_are_merged_by_the_names_of_categories_with_every_id_once():
    first = {
        "images": [{"id": "a", "file_name": "1.jpg"}, {"id": 7, "file_name": "2.jpg"}],
        "annotations": [
            {"id": 1, "image_id": "a", "category_id": 1},
            {"id": 1, "image_id": "007", "category_id": "owl"},
        ],
        "categories": [{"id": 0, "name": "owl"}, {"id": 1, "name": "jay"}],
    }
    second = {
        "images": [{"id": 7, "file_name": "3.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 0, "bbox": [1, 2, 3, 4], "iscrowd": 1},
            {"id": 2, "image_id": "3.jpg", "category_id": 0},
            {"id": 3, "image_id": "a", "category_id": 9},
        ],
        "categories": [{"id": 0, "name": "jay"}],
    }
    found = merged([first, second])
    assert [(one["id"], one["file_name"]) for one in found["images"]] == [(1, "1.jpg"), (2, "2.jpg"), (3, "3.jpg")]
    assert [(one["id"], one["name"]) for one in found["categories"]] == [(1, "owl"), (2, "jay")]
    named = [(one["id"], one["image_id"], one["category_id"]) for one in found["annotations"]]
    assert named[:4] == [(1, 1, 2), (2, 2, 1), (3, 3, 2), (4, 3, 2)]
    assert named[4] == (5, "a of file 2", "9 of file 2"), "which the service reports, and not an image of another file"
    assert (found["annotations"][2]["bbox"], found["annotations"][2]["iscrowd"]) == ([1, 2, 3, 4], 1)


@pytest.mark.parametrize("place", ["", "images/"])
@pytest.mark.parametrize("ids", [("1_11", "11_1"), ("v1", "v1.0"), ("１", "1")])
def test_ids_that_are_different_texts_are_of_different_images(tmp_path: Path, place: str, ids: tuple[str, str]) -> None:
    exports.pictures(tmp_path, [f"{place}a.jpg", f"{place}b.jpg"])
    made = {
        "images": [{"id": id_, "file_name": name} for id_, name in zip(ids, ("a.jpg", "b.jpg"), strict=True)],
        "annotations": [{"id": n, "image_id": id_, "category_id": n} for n, id_ in enumerate(ids, 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(made))
    imported = read(tmp_path)
    assert {image.name: [box.label for box in image.boxes] for image in imported.images} == {
        "a.jpg": ["cat"],
        "b.jpg": ["dog"],
    }


@pytest.mark.parametrize("damaged", ["valid/_annotations.coco.json", "annotations/instances_val2017.json"])
def test_a_split_whose_file_is_damaged_is_not_left_out(tmp_path: Path, damaged: str) -> None:
    other = damaged.replace("valid", "train").replace("val", "train")
    for name in (damaged, other):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(coco(tmp_path).read_bytes())
    (tmp_path / "coco.json").unlink()
    assert set(read(tmp_path).splits) == {"train", "val"}
    (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:-5])
    with pytest.raises(ImportFault, match=f"{Path(damaged).name} cannot be read as JSON"):
        read(tmp_path)


def test_damaged_captions_beside_instances_are_none_of_their_business(tmp_path: Path) -> None:
    file = coco(tmp_path, {"bbox": [1, 2, 4, 8]})
    (tmp_path / "annotations").mkdir()
    file.replace(tmp_path / "annotations" / "instances_val2017.json")
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{")
    assert read(tmp_path).counts == {"cat": (1, 1)}


def test_what_macos_leaves_beside_a_file_is_not_of_the_export(tmp_path: Path) -> None:
    coco(tmp_path, {"bbox": [1, 2, 4, 8]})
    (tmp_path / "._coco.json").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    assert read(tmp_path).counts == {"cat": (1, 1)}
