"""Which files are uploaded, and in what batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.client import uploads
from sightline.client.errors import ImagesMissing, InvalidRequest
from sightline.client.uploads import LocalFile, Reading, images_below, local_set, read_export


def test_uploads_go_in_batches_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BATCH_BYTES", 10)
    files = [LocalFile(str(number), tmp_path / str(number)) for number in range(5)]
    for file in files:
        file.file.write_bytes(b"12345")
    assert [len(batch) for batch in uploads.batches(files)] == [2, 2, 1]


def test_images_already_in_the_store_are_not_looked_for(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "s3://sightline/a.png"},
        {"id": 2, "file_name": "b.png", "coco_url": "s3://sightline/b.png"},
        {"id": 3, "file_name": "./c.png", "coco_url": "http://images.example/c.png"},
    ]
    (tmp_path / "c.png").write_bytes(b"")
    coco = tmp_path / "coco.json"
    coco.write_text("\ufeff" + json.dumps({"images": images}))
    assert [file.path for file in uploads.files_of(coco)] == ["coco.json", "c.png"]


def test_an_image_whose_path_no_store_accepts_is_named_before_anything_is_uploaded(tmp_path: Path) -> None:
    name = "/".join(["n" * 200] * 6) + ".png"
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps({"images": [{"id": 1, "file_name": name}]}))
    with pytest.raises(ImagesMissing, match="the path is longer than 1024 bytes, which the store does not accept"):
        uploads.files_of(coco)


def test_an_export_of_which_every_image_is_too_large_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "dog/22.jpg")
    package = read_export(tmp_path, Reading())
    assert [file.path for file in local_set(package, 9).left_out] == ["dog/22.jpg"]
    with pytest.raises(InvalidRequest, match="2 images, and all are larger than 8 B"):
        local_set(package, 8)


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_of_a_folder_only_what_a_person_sees_is_uploaded(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b/c.PNG", "notes.txt", ".thumbnails/a.jpg", "__MACOSX/b/c.PNG", "b/.c.jpg")
    assert {file.path for file in images_below(tmp_path, pytest.fail).files} == {"a.jpg", "b/c.PNG"}


def test_names_that_the_store_refuses_are_changed_to_free_ones_and_noted(tmp_path: Path) -> None:
    put(tmp_path, "b\\c.jpg", "b/c.jpg", "x\u200by.jpg", "x_y.jpg", "new\nline.jpg")
    said: list[str] = []
    files = images_below(tmp_path, said.append).files
    assert {file.path: file.file.relative_to(tmp_path).as_posix() for file in files} == {
        "b/c.jpg": "b/c.jpg",
        "_b/c.jpg": "b\\c.jpg",
        "x_y.jpg": "x_y.jpg",
        "_x_y.jpg": "x\u200by.jpg",
        "new_line.jpg": "new\nline.jpg",
    }
    (text,) = said
    for one in (r"b\c.jpg as _b/c.jpg", r"x\u200by.jpg as _x_y.jpg", r"new\u000aline.jpg as new_line.jpg"):
        assert one in text


def test_of_a_folder_every_image_that_cannot_be_uploaded_is_named_with_the_fix(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "/".join(["n" * 200] * 6) + ".png")
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ImagesMissing, match="has 2 images that cannot be uploaded") as caught:
        images_below(tmp_path, pytest.fail)
    assert [image.file_name[:8] for image in caught.value.images] == ["dead.jpg", "nnnnnnnn"]
    assert "dead.jpg: " in caught.value.message
    assert "is a link to a file that does not exist" in caught.value.message
    assert caught.value.fix == "rename or remove these files"


def test_a_dead_link_in_a_folder_per_class_is_to_be_removed_from_there(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "dog" / "dead.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ImagesMissing, match=r"dog/dead\.jpg") as caught:
        read_export(tmp_path, Reading())
    assert caught.value.fix == "rename or remove these files"
