"""Folders as people have them: of classes, of splits, with other things between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.importers.model import ImportFault, split_of
from sightline.importers.read import read
from tests.unit.importers.exports import pictures
from tests.unit.importers.test_formats import told


@pytest.mark.parametrize("name", ["train", "Training_Set", "train2017", "train-images", "seg_train", "images train"])
def test_splits_have_many_names(name: str) -> None:
    assert split_of(name) == "train"


@pytest.mark.parametrize("name", ["trains", "test tube", "set", "training wheels", "2017", "", "train test"])
def test_other_names_are_no_splits(name: str) -> None:
    assert split_of(name) == ""


@pytest.mark.parametrize(
    ("files", "splits", "categories"),
    [
        (["training_set/cat/1.jpg", "test_set/cat/2.jpg"], {"train": 1, "test": 1}, ("cat",)),
        (["seg_train/seg_train/sea/1.jpg", "seg_test/seg_test/sea/2.jpg"], {"train": 1, "test": 1}, ("sea",)),
        (["data/train/cat/1.jpg", "data/test/dog/2.jpg", "code/x.py"], {"train": 1, "test": 1}, ("cat", "dog")),
        (["train/cat/1.jpg", "val/cat/2.jpg", "samples/3.jpg"], {"train": 1, "val": 1}, ("cat",)),
        (["train/cat/1.jpg", "test/2.jpg"], {"train": 1}, ("cat",)),
        (["train/express/1.jpg", "bus/2.jpg"], {}, ("bus", "train")),
    ],
)
def test_folders_of_splits(tmp_path: Path, files: list[str], splits: dict[str, int], categories: list[str]) -> None:
    pictures(tmp_path, [name for name in files if name.endswith(".jpg")])
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
    imported = read(tmp_path)
    assert (imported.splits, imported.categories) == (splits, categories)


def test_images_in_no_split_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/cat/1.jpg", "val/cat/2.jpg", "val/3.jpg", "samples/4.jpg"])
    said = told(read(tmp_path))
    assert "left out, as they are in no split: the images in samples" in said
    assert "left out: 1 image in no class's folder" in said


def test_images_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    (tmp_path / "cat" / "2.HEIC").write_bytes(b"")
    assert "left out, as they cannot be read here: 1 .heic file; convert them" in told(read(tmp_path))


def test_files_without_an_extension_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    for name in ("cat/2", "dog/2", "LICENSE"):
        (tmp_path / name).write_bytes(b"")
    assert "left out, as their names have no extension: 2 files" in told(read(tmp_path))


def test_thumbnails_and_deleted_files_of_storage_servers_are_no_images(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/1.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "dog/1.jpg", "#recycle/2.jpg"])
    assert [image.name for image in read(tmp_path).images] == ["cat/1.jpg", "dog/1.jpg"]


def test_links_to_folders_below_those_of_classes_are_told(tmp_path: Path) -> None:
    pictures(tmp_path / "pets", ["cat/1.jpg", "dog/1.jpg"])
    pictures(tmp_path, ["more/1.jpg"])
    (tmp_path / "pets" / "cat" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "pets" / "bird").symlink_to(tmp_path / "more")
    imported = read(tmp_path / "pets")
    assert imported.categories == ("bird", "cat", "dog")
    assert "links below a class's folder are not followed: cat/linked" in told(imported)


def test_archives_among_the_images_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    (tmp_path / "cat" / "more.ZIP").write_bytes(b"")
    assert "left out, as they are packed: 1 .zip file; unpack them" in told(read(tmp_path))


@pytest.mark.parametrize(
    ("files", "says", "fix"),
    [
        (["cat/1.HEIC", "cat/2.heic"], "2 .heic files, which cannot be read here", "convert"),
        (["photos.zip"], "it has photos.zip", "unpack"),
        (["1.jpg"], "1 image without annotations, in no folders", "put the images of each class in a folder"),
        (["cat/1.jpg", "cat/1.txt"], "neither a data.yaml nor a classes.txt", "add a classes.txt"),
    ],
)
def test_what_is_there_instead_and_what_to_do(tmp_path: Path, files: list[str], says: str, fix: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert says in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("name", "text", "says", "fault"),
    [
        ("train.json", '{"images": [],}', "it has train.json, whose content is none of them", "line 1 column 15"),
        ("train.json", "", "it has train.json, whose content is none of them", "cannot be read as JSON"),
        ("train.json", '{"image": []}', "it has train.json (JSON with image), whose content is none of them", ""),
        ("train.json", "[[1]]", "it has train.json (JSON with a list of 1), whose content is none of them", ""),
    ],
)
def test_annotations_that_are_not_understood_are_named_and_not_the_folder_of_images(
    tmp_path: Path, name: str, text: str, says: str, fault: str
) -> None:
    pictures(tmp_path, ["images/1.jpg", "images/2.jpg"])
    (tmp_path / name).write_text(text)
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert says in caught.value.message
    assert fault in " ".join(caught.value.faults)
    assert "COCO" in caught.value.fix


def test_annotations_that_cannot_be_read_beside_folders_of_classes_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    (tmp_path / "train.json").write_text("{")
    assert "train.json cannot be read as JSON" in told(read(tmp_path))


def test_one_split_beside_the_classes_may_have_the_same_classes(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/1.jpg", "dog/2.jpg", "test/cat/3.jpg"])
    imported = read(tmp_path)
    assert (imported.categories, imported.splits) == (("cat", "dog"), {"test": 1, "": 2})
    pictures(tmp_path, ["test/cow/4.jpg"])
    assert read(tmp_path).categories == ("cat", "dog", "test"), "then it may be a class"
