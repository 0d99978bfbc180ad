"""What a server sends is written into the folder that the caller named, whatever the server calls it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sightline.client.batches import _Download
from sightline.client.results.batch import ResultFile
from sightline.client.suggested import Drafting
from sightline.v1.prediction_service_pb2 import SuggestImagesResponse


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("image_id", "extension", "ending"),
    [
        ("a1", "png", "-a1.png"),
        ("/../../../evil", "png", "-_.._.._.._evil.png"),
        ("a1", "x/../../../evil", "-a1.x_.._.._.._evil"),
        ("a\\..\\b", "jpg", "-a_.._b.jpg"),
    ],
)
def test_suggested_images_stay_in_their_folder(tmp_path: Path, image_id: str, extension: str, ending: str):
    drafting = Drafting("models/m", tmp_path / "a" / "draft", 1)
    drafting.take(SuggestImagesResponse(image_id=image_id, extension=extension, image=b"1"))
    (written,) = files_below(tmp_path)
    assert written == f"a/draft/images/0001-19700101T000000{ending}"


@pytest.mark.parametrize("name", ["../../evil.csv", "/evil.csv", "..\\evil.csv", ".."])
def test_result_files_of_a_batch_prediction_stay_in_their_folder(tmp_path: Path, name: str):
    folder, content = tmp_path / "a" / "results", b"1,2\n"
    file = ResultFile(file_name=name, uri="s3://b/x", size_bytes=4, sha256=hashlib.sha256(content).hexdigest())
    with _Download("batchPredictions/b", file, folder) as download:
        download.take(content)
        written = download.finish()
    assert download.request.file_name == name
    assert written.read_bytes() == content
    assert written.parent == folder
    assert files_below(tmp_path) == {f"a/results/{written.name}"}
