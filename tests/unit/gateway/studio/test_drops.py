"""What is dropped onto the studio is understood as by the command, whatever it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty

from services.gateway.studio.drops import MAX_FILES, MAX_READ, READ, Unfit, lay_out
from services.gateway.studio.text import Text
from sightline.importers.model import BoxForm, Format
from sightline.v1.dataset_service_pb2 import DeleteUploadRequest, UploadFilesRequest, UploadFilesResponse
from tests.support.gateway import Answer
from tests.support.studio import browser
from tests.unit.importers import exports

Files = dict[str, bytes]


def files_below(folder: Path) -> Files:
    """The files below a folder, by their paths."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def body(files: Files, *, name: str = "photos", **choice: Any) -> bytes:
    """What the page sends: labels with their content, images without."""
    sent = [(path, content) for path, content in files.items() if path.lower().endswith(READ)]
    listed = [(path, len(content), path.lower().endswith(READ)) for path, content in files.items()]
    head = json.dumps({"name": name, "files": listed, **choice}).encode()
    return b"\n".join((head, b"".join(content for _, content in sent)))


def opened(parts: list[UploadFilesRequest]) -> UploadFilesResponse:
    """An upload that may have images of 64 KiB."""
    assert [part.header.upload_id for part in parts] == [""]
    return UploadFilesResponse(upload_id="u1", max_image_bytes=65536)


UPLOADS: dict[str, Answer] = {"UploadFiles": opened, "DeleteUpload": lambda request: Empty()}


async def read(files: Files, *, limit: int = 1024**2, **choice: Any) -> Any:
    """What the page gets."""
    async with browser(UPLOADS, max_image_batch_bytes=limit) as one:
        await one.open("/studio/new")
        response = await one.send("/studio/drops", body(files, **choice))
    assert response.status_code == 200, response.text
    assert one.requests("DeleteUpload") == [DeleteUploadRequest(name="uploads/u1")], "nobody needs it any more"
    return response.json()


@pytest.mark.parametrize(
    ("make", "form", "kind", "categories"),
    [
        (exports.folder_per_class, "folders", "classification", {"cat", "dog"}),
        (exports.yolo, "yolo", "detection", {"cat", "dog"}),
        (exports.voc, "voc", "detection", {"cat", "dog"}),
    ],
)
async def test_an_export_is_understood_by_its_content(
    make: Callable[[Path], Path], form: str, kind: str, categories: set[str], tmp_path: Path
):
    files = {f"export/pets/{path}": content for path, content in files_below(make(tmp_path)).items()}
    found = await read(files)
    assert (found["format"], found["kind"]) == (form, kind)
    assert {name for name, _, _ in found["categories"]} == categories
    assert {path for path, _ in found["images"]} == {path for path in files if path.endswith(".jpg")}
    listed = json.loads(found["annotations"]["content"])["images"]
    assert {one["file_name"] for one in listed} == {to for _, to in found["images"]}


def two_splits() -> Files:
    """COCO files of two splits, each with an image."""

    def coco(name: str) -> bytes:
        boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}]
        images = [{"id": 1, "file_name": name, "width": 80, "height": 60}]
        return json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "oak"}]}).encode()

    return {
        "trees/train/_annotations.coco.json": coco("a.jpg"),
        "trees/train/a.jpg": b"12345",
        "trees/test/_annotations.coco.json": coco("b.jpg"),
        "trees/test/b.jpg": b"1234567",
    }


async def test_coco_files_of_several_splits_are_one_dataset_or_the_splits_that_were_ticked():
    whole = await read(two_splits())
    assert whole["splits"] == {"train": 1, "test": 1}
    assert {path for path, _ in whole["images"]} == {"trees/train/a.jpg", "trees/test/b.jpg"}
    content = json.loads(whole["annotations"]["content"])
    assert [one["file_name"] for one in content["images"]] == ["test/b.jpg", "train/a.jpg"]
    assert [one["image_id"] for one in content["annotations"]] == [1, 2]
    assert len(content["categories"]) == 1
    part = await read(two_splits(), splits=["test"])
    assert part["images"] == [["trees/test/b.jpg", "test/b.jpg"]]
    assert part["splits"] == whole["splits"]
    assert [one["file_name"] for one in json.loads(part["annotations"]["content"])["images"]] == ["test/b.jpg"]


async def test_a_coco_file_that_needs_no_change_is_not_sent_back():
    files = {path.replace("train/", ""): content for path, content in two_splits().items() if "train" in path}
    found = await read(files)
    assert found["annotations"] == {"path": "_annotations.coco.json", "file": "trees/_annotations.coco.json"}


async def test_ids_that_are_no_numbers_are_replaced_so_that_labels_can_be_corrected():
    files = two_splits()
    coco = json.loads(files["trees/train/_annotations.coco.json"])
    coco["images"][0]["id"] = coco["annotations"][0]["image_id"] = "a.jpg"
    found = await read({"labels.json": json.dumps(coco).encode(), "a.jpg": b"1"})
    content = json.loads(found["annotations"]["content"])
    assert (content["images"][0]["id"], content["annotations"][0]["image_id"]) == (1, 1)


@pytest.mark.parametrize(("limit", "most"), [(4096, 4096), (1024**2, 65536)], ids=["gateway", "dataset service"])
async def test_images_that_are_too_large_are_left_out_of_the_labels(limit: int, most: int, tmp_path: Path):
    files = files_below(exports.folder_per_class(tmp_path)) | {"cat/huge.jpg": b"x" * (most + 1)}
    found = await read(files, limit=limit)
    assert (found["large"], found["max_image_bytes"]) == (["cat/huge.jpg"], most)
    assert "huge" not in found["annotations"]["content"]


async def test_the_form_and_the_boxes_can_be_chosen(tmp_path: Path):
    files = {"labels.csv": b"a.jpg,oak,10,10,30,20\n", "a.jpg": b"1"}
    corners, sizes = await read(files), await read(files, form="csv", boxes="xywh")
    boxes = [json.loads(one["annotations"]["content"])["annotations"][0]["bbox"] for one in (corners, sizes)]
    assert boxes == [[10, 10, 20, 10], [10, 10, 30, 20]]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.jpg": b"1", "b.jpg": b"2"}, "The format of photos was not recognised: 2 images without annotations"),
        ({"x/labels.csv": b"a.jpg,oak\n"}, "there is no file x/a.jpg"),
        ({"x/labels.json": b'{"images": ['}, "x/labels.json cannot be read as JSON: "),
        ({"x/notes.docx": b"1"}, "it has files of these kinds: .docx"),
        ({"data.yaml": b"names:\n", "a.jpg": b"1"}, "data.yaml lists no classes under `names`"),
    ],
)
async def test_what_is_wrong_is_said_in_the_importers_words_with_the_paths_of_the_drop(files: Files, said: str):
    problem = (await read(files))["problem"]
    text = " ".join((problem["message"], *problem["faults"]))
    assert said in text
    assert "sightline-drop" not in json.dumps(problem)
    assert problem["fix"] or problem["reason"] == "images"


@pytest.mark.parametrize(
    "path", ["../a.json", "/a.json", "a/../../b.json", "a//b.json", ".", "", "a\0.json", "a/" + "x" * 300]
)
def test_a_path_that_leaves_the_folder_is_refused(path: str, tmp_path: Path):
    with pytest.raises(Unfit):
        lay_out(body({path: b"{}", "labels.json": b"{}"}), tmp_path / "below")
    assert [one.name for one in tmp_path.iterdir()] in ([], ["below"])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"[]",
        b'{"name": "x"}',
        b'{"name": "x", "files": [["a.json", 10, true]]}',
        b'{"name": "x", "files": [["a.jpg", -1, false]]}',
        b'{"name": "x", "files": [["a.jpg", 99999999999999, false]]}',
        b'{"name": "x", "files": [], "form": "none such"}',
        b'{"name": "x", "files": [], "boxes": "abcd"}',
        b'{"name": "x", "files": [["a", 0, false], ["a", 0, false]]}',
        b'{"name": "x", "files": [["a", 0, false], ["a/b", 0, false]]}',
        b'{"name": "x", "files": [["a/b", 0, false], ["a", 0, false]]}',
        b'{"name": "x", "files": [["\\ud800.jpg", 0, false]]}',
        b"[" * 100_000,
    ],
)
def test_a_list_of_files_that_cannot_be_is_refused(head: bytes, tmp_path: Path):
    with pytest.raises(Unfit):
        lay_out(head + b"\n12345", tmp_path)


@pytest.mark.parametrize("where", ["/etc", "../../../../../../../../etc"])
async def test_an_export_cannot_name_files_of_the_server(where: str):
    outside = {"data.yaml": f"path: {where}\ntrain: {where}/passwd\nnames: {where}/passwd\n".encode(), "a.jpg": b"1"}
    listed = {"obj.data": f"names = {where}/passwd\ntrain = {where}/passwd\n".encode(), "a.jpg": b"1"}
    labels = {"data.yaml": b"train: list.txt\nnames: [oak]\n", "list.txt": f"{where}/passwd\n{where}/a.jpg\n".encode()}
    coco = {
        "labels.json": json.dumps(
            {"images": [{"id": 1, "file_name": f"{where}/passwd"}], "annotations": [], "categories": []}
        ).encode()
    }
    for files in (outside, listed, labels, coco):
        found = await read(files)
        assert "problem" in found, files
        assert "root:" not in json.dumps(found)


async def test_an_export_that_takes_too_much_memory_or_depth_ends_only_its_own_process():
    aliases = "\n".join(
        [
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
            *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)),
            "names: [[*a11]]",
        ]
    )
    nested = {"a.json": b"[" * 500_000, "a.jpg": b"1"}
    bomb = {"data.yaml": aliases.encode(), "a.jpg": b"1"}
    for files in (nested, bomb):
        assert "problem" in await read(files)
    assert "format" in await read({"cat/a.jpg": b"1", "dog/b.jpg": b"2"})


async def drop_two() -> None:
    """One that is understood, one that is not."""
    await read({"cat/a.jpg": b"1", "dog/b.jpg": b"2"})
    await read({"x.docx": b""})


def test_nothing_is_kept_on_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asyncio.run(drop_two())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["../{a}.json", "x" * 300, "a.json"])
async def test_files_that_cannot_be_laid_out_are_named_on_the_page(path: str):
    async with browser(UPLOADS) as one:
        await one.open("/studio/new")
        sent = body({path: b"{}"}).replace(b"files", b"fils" if path == "a.json" else b"files")
        response = await one.send("/studio/drops", sent)
    assert response.status_code == 400
    assert path in response.text or "cannot be read" in response.text
    assert "<html" not in response.text


async def test_labels_that_are_too_large_are_refused_unread(tmp_path: Path):
    async with browser(UPLOADS, max_image_batch_bytes=1024) as one:
        await one.open("/studio/new")
        response = await one.send("/studio/drops", body({"a.json": b" " * 2048}))
    assert response.status_code == 413


@pytest.mark.parametrize("suffix", ["jpg", "txt"])
def test_more_files_than_are_read_are_refused_before_any_is_written(suffix: str, tmp_path: Path):
    count = {"jpg": MAX_FILES, "txt": MAX_READ}[suffix] + 1
    with pytest.raises(Unfit, match="too_many"):
        lay_out(body({f"{number}.{suffix}": b"" for number in range(count)}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_form_has_its_words():
    text = Text()
    assert all(text.named("form", form.value) != form.value for form in Format)
    assert all(text.named("boxes", form.value) != form.value for form in BoxForm)
