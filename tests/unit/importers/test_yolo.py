"""YOLO as people have it: other names of folders and files, classes with gaps, splits that overlap, labels alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest

from sightline.importers.model import Format, ImportFault
from sightline.importers.read import read
from tests.unit.importers.exports import picture, pictures
from tests.unit.importers.test_formats import told

LINE = "0 0.5 0.5 0.25 0.5\n"


def written(folder: Path, texts: Mapping[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\ndog\n"),
        ("labels.txt", "0 cat\n1 dog\n"),
        ("data.yaml", "nc: 2\nnames: [Cat, dog]\n"),
        ("config.yaml", "lr: 0.1\ntrain: true\n"),
    ],
)
def test_a_folder_per_class_may_have_a_list_of_the_classes(tmp_path: Path, name: str, text: str) -> None:
    pictures(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    imported = read(written(tmp_path, {name: text}))
    assert (imported.format, imported.categories) == (Format.FOLDERS, ("cat", "dog"))


def test_a_folder_of_labels_with_their_classes_may_be_apart_from_the_images(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.jpg")
    written(tmp_path, {"labels/classes.txt": "cat\n", "labels/1.txt": LINE})
    imported = read(tmp_path / "labels", images=tmp_path / "images")
    assert (imported.format, imported.counts) == (Format.YOLO, {"cat": (1, 1)})


def test_images_without_any_labels_are_said_instead_of_read_as_background(tmp_path: Path) -> None:
    pictures(tmp_path, ["images/train/1.jpg", "images/val/2.jpg"])
    with pytest.raises(ImportFault, match="2 images, and no file of labels") as caught:
        read(written(tmp_path, {"data.yaml": "train: images/train\nval: images/val\nnames: [cat]\n"}))
    assert "--format folders" in caught.value.fix


def test_folders_of_splits_alone_are_no_classes(tmp_path: Path) -> None:
    pictures(tmp_path, ["images/train/1.jpg", "images/val/2.jpg"])
    with pytest.raises(ImportFault, match="are in train, val, which say nothing about what they show"):
        read(written(tmp_path, {"classes.txt": "cat\n"}))


@pytest.mark.parametrize(
    "listed",
    [
        {"classes.txt": "cat\n\ndog\ncow\n\n\n"},
        {"obj.names": "cat\n\ndog\ncow\n", "obj.data": "train = images\nnames = obj.names\n"},
    ],
)
def test_an_empty_line_in_the_list_of_classes_is_a_number_without_a_class(
    tmp_path: Path, listed: dict[str, str]
) -> None:
    pictures(tmp_path / "images", ["1.jpg"])
    written(tmp_path, {**listed, "images/1.txt": LINE.replace("0", "2", 1)})
    assert read(tmp_path).counts == {"cat": (0, 0), "dog": (1, 1), "cow": (0, 0)}
    written(tmp_path, {"images/1.txt": LINE.replace("0", "1", 1)})
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert "class 1 is not in the list of 3 classes" in caught.value.faults[0]


def test_classes_in_a_yaml_are_as_they_are_written(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["1.jpg"])
    text = "train: images\ntest:\nnames: [no, yes, 010, 1.50, 2026-01-01, null]\n"
    imported = read(written(tmp_path, {"data.yaml": text, "images/1.txt": LINE}))
    assert imported.categories == ("no", "yes", "010", "1.50", "2026-01-01", "null")


@pytest.mark.parametrize("order", ["train: images\nval: images\n", "val: images\ntrain: [images, ./images]\n"])
def test_an_image_of_several_splits_is_in_the_first_and_that_is_said(tmp_path: Path, order: str) -> None:
    pictures(tmp_path / "images", ["1.jpg", "2.jpg"])
    imported = read(written(tmp_path, {"data.yaml": f"{order}names: [cat]\n", "images/1.txt": LINE}))
    assert (imported.splits, imported.counts) == ({"train": 2}, {"cat": (1, 1)})
    assert "counted in train only: 2 images that val has too" in told(imported)
    assert ("counted once: 2 images listed twice" in told(imported)) == ("[" in order)


def test_a_split_that_is_not_there_is_said(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["1.jpg"])
    text = "train: images\nval: valid/images\ntest: null\nnames: [cat]\n"
    imported = read(written(tmp_path, {"data.yaml": text, "images/1.txt": LINE}))
    assert "left out, as it is not there: val: valid/images" in told(imported)
    assert "null" not in told(imported)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/1.jpg", "labels/train/1.txt"),
        ("train/Images/1.jpg", "train/Labels/1.txt"),
        ("Images/Train/1.jpg", "LABELS/train/1.txt"),
        ("images/pets/img/1.jpg", "images/pets/labels/1.txt"),
        ("images/pets/img/train/1.jpg", "images/pets/labels/train/1.txt"),
        ("images/images/1.jpg", "images/labels/1.txt"),
        ("images/images/1.jpg", "labels/images/1.txt"),
        ("photos/1.jpg", "labels/1.txt"),
        ("images/1.JPG", "images/1.TXT"),
        ("images/B.JPG", "labels/b.txt"),
        (unicodedata.normalize("NFD", "images/Müll.jpg"), "labels/Müll.txt"),
        ("images/dot.name.v2.jpg", "labels/dot.name.v2.txt"),
    ],
)
def test_where_the_labels_of_an_image_are(tmp_path: Path, image: str, label: str) -> None:
    picture(tmp_path / image.replace("JPG", "jpg")).rename(tmp_path / image)
    imported = read(written(tmp_path, {"classes.txt": "cat\n", label: LINE}))
    assert (imported.format, imported.counts) == (Format.YOLO, {"cat": (1, 1)})


def test_a_file_of_labels_whose_name_two_images_are_like_belongs_to_the_one_that_has_it(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["a.jpg", "A.png"])
    imported = read(written(tmp_path, {"classes.txt": "cat\n", "labels/a.txt": LINE}))
    assert {image.name: len(image.boxes) for image in imported.images} == {"images/A.png": 0, "images/a.jpg": 1}


def test_labels_without_an_image_are_said_with_the_images_that_cannot_be_read(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["1.jpg"])
    labels = {f"labels/{number}.txt": LINE for number in range(1, 4)}
    written(tmp_path, {**labels, "classes.txt": "cat\n", "labels/classes.txt": "cat\n", "labels/notes.txt": "some"})
    said = "left out: 2 files of labels without an image"
    assert told(read(tmp_path)).endswith(said)
    written(tmp_path, {"images/2.heic": ""})
    assert f"{said}; 1 .heic file cannot be read here: convert them to JPEG or PNG" in told(read(tmp_path))


@pytest.mark.parametrize(
    ("outside", "split"),
    [("images/1", "test"), ("1", "test"), ("images/extra/1", "images/train"), ("images/train/1", "test")],
)
def test_labelled_images_outside_the_folders_of_splits_are_read(tmp_path: Path, outside: str, split: str) -> None:
    labels = {f"{outside.replace('images', 'labels')}.txt": LINE, f"{split.replace('images', 'labels')}/2.txt": LINE}
    pictures(tmp_path, [f"{outside}.jpg", f"{split}/2.jpg", "unlabelled.jpg"])
    imported = read(written(tmp_path, {"classes.txt": "cat\n", **labels}))
    assert {image.name for image in imported.images} == {f"{outside}.jpg", f"{split}/2.jpg"}
    assert imported.counts == {"cat": (2, 2)}
