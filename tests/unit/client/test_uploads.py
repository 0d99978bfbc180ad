"""Which files are uploaded, and in what batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.client import uploads
from sightline.client.errors import ImagesMissing
from sightline.client.uploads import LocalFile


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
