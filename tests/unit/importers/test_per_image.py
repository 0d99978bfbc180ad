"""Pascal VOC and LabelMe: a file of annotations belongs to its own image, whatever was copied, renamed or merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.importers.image_files import ImagesUnresolved
from sightline.importers.model import ImportFault
from sightline.importers.package import Package, pack
from sightline.importers.read import read
from tests.unit.importers.exports import picture, pictures


def voc(file: Path, named: str, label: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    box = "<bndbox><xmin>8</xmin><ymin>6</ymin><xmax>48</xmax><ymax>36</ymax></bndbox>"
    file.with_suffix(".xml").write_text(
        f"<annotation><filename>{named}</filename><object><name>{label}</name>{box}</object></annotation>"
    )


def labelme(file: Path, named: str, label: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = {"label": label, "shape_type": "rectangle", "points": [[8, 6], [48, 36]]}
    file.with_suffix(".json").write_text(json.dumps({"shapes": [shape], "imagePath": named}))


Write = Callable[[Path, str, str], None]
TOOLS = pytest.mark.parametrize("written", [voc, labelme])


def labels(package: Package) -> dict[str, str]:
    return {placed.path: placed.image.boxes[0].label for placed in package.placed}


@TOOLS
def test_other_files_may_come_before_those_of_annotations(tmp_path: Path, written: Write) -> None:
    written(picture(tmp_path / "a.jpg"), "a.jpg", "cat")
    (tmp_path / "1.jpg.aux.xml").write_text("<PAMDataset/>")
    (tmp_path / "0.json").write_text("{}")
    assert read(tmp_path).categories == ("cat",)


@TOOLS
@pytest.mark.parametrize(
    ("marks", "images"),
    [
        (("site1/1", "site2/1"), ("site1/1.jpg", "site2/1.jpg")),
        (("train/1", "test/1"), ("train/1.jpg", "test/1.jpg")),
        (("1", "test/1"), ("1.jpg", "test/1.jpg")),
        (("2007/Annotations/1", "2012/Annotations/1"), ("2007/JPEGImages/1.jpg", "2012/JPEGImages/1.jpg")),
    ],
)
def test_images_of_the_same_name_belong_to_the_annotations_next_to_them(
    tmp_path: Path, written: Write, marks: tuple[str, str], images: tuple[str, str]
) -> None:
    pictures(tmp_path, images)
    for mark, label in zip(marks, ("cat", "dog"), strict=True):
        written(tmp_path / mark, "1.jpg", label)
    assert labels(pack(read(tmp_path))) == dict(zip(images, ("cat", "dog"), strict=True))


@TOOLS
@pytest.mark.parametrize(("marks", "images"), [("", ""), ("Annotations", "JPEGImages")])
@pytest.mark.parametrize("copy", ["a_flipped.jpg", "A2.PNG"])
def test_a_copy_keeps_its_annotations_although_they_name_the_original(
    tmp_path: Path, written: Write, marks: str, images: str, copy: str
) -> None:
    picture(tmp_path / images / "a.jpg")
    picture(tmp_path / images / copy, 1)
    written(tmp_path / marks / "a", "a.jpg", "cat")
    written(tmp_path / marks / copy, "a.jpg", "dog")
    package = pack(read(tmp_path))
    assert {Path(path).name: label for path, label in labels(package).items()} == {"a.jpg": "cat", copy: "dog"}
    assert any("1 file of annotations given to the image" in note for note in package.imported.notes)


@TOOLS
def test_annotations_that_share_an_image_are_refused(tmp_path: Path, written: Write) -> None:
    picture(tmp_path / "a.jpg")
    written(tmp_path / "a", "a.jpg", "cat")
    written(tmp_path / "a2", "a.jpg", "dog")
    with pytest.raises(ImportFault, match="several files of annotations are of the same image") as caught:
        pack(read(tmp_path))
    (fault,) = caught.value.faults
    assert fault.partition("a.jpg is the image of ")[2].replace(".json", ".xml") == "a.xml and of a2.xml"


@TOOLS
def test_annotations_that_lost_their_image_do_not_take_that_of_others(tmp_path: Path, written: Write) -> None:
    picture(tmp_path / "site2" / "1.jpg")
    written(tmp_path / "site1" / "1", "1.jpg", "cat")
    written(tmp_path / "site2" / "1", "1.jpg", "dog")
    with pytest.raises(ImagesUnresolved) as caught:
        pack(read(tmp_path))
    (image,) = caught.value.images
    assert image.problem.endswith("site1/1.jpg; only site2/1.jpg is like it, which another image means too")


def test_each_year_of_pascal_voc_has_its_own_splits(tmp_path: Path) -> None:
    for year, split in (("2007", "train"), ("2012", "val")):
        picture(tmp_path / year / "JPEGImages" / "1.jpg", int(year))
        voc(tmp_path / year / "Annotations" / "1", "1.jpg", "cat")
        sets = tmp_path / year / "ImageSets" / "Main"
        sets.mkdir(parents=True)
        (sets / f"{split}.txt").write_text("1\n")
    assert read(tmp_path).splits == {"train": 1, "val": 1}


@pytest.mark.parametrize("kind", ["circle", "rectangle"])
def test_shapes_that_are_larger_than_any_image_are_named(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "a.jpg")
    shape = {"label": "cat", "shape_type": kind, "points": [[-1e308, 6], [1e308, 7]]}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.jpg"}))
    with pytest.raises(ImportFault, match="boxes are larger than any image") as caught:
        pack(read(tmp_path))
    assert caught.value.faults == ("a.jpg: cat",)
