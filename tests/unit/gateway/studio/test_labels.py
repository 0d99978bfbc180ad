"""Correcting labels: what the browser gets, and how it saves a new version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.gateway.studio.labels import place_of
from services.kit.errors import DatasetNotReady, UploadNotFound
from sightline.v1.dataset_pb2 import Dataset, DatasetStats
from sightline.v1.dataset_service_pb2 import (
    ListFindingsResponse,
    ReadImagesResponse,
    ReadUploadedFileResponse,
    Snapshot,
    SnapshotBox,
    SnapshotCategory,
    SnapshotImage,
)
from tests.support.studio import browser

HOSTILE = "<script>alert(1)</script>\"'"
URI = "s3://sightline/uploads/u%201/" + HOSTILE + "/labels.json"
DATASET = Dataset(
    name="datasets/trees",
    display_name=HOSTILE,
    annotation_kind=Dataset.OBJECT_DETECTION,
    annotation_file_uris=[URI],
    state=Dataset.READY,
    snapshot_digest="sha256:1",
    stats=DatasetStats(image_count=2),
)
SNAPSHOT = Snapshot(
    digest="sha256:1",
    image_count=2,
    categories=[SnapshotCategory(id=1, name="oak"), SnapshotCategory(id=7, name=HOSTILE)],
)
BOXES = SnapshotImage(
    image_id=3,
    file_name=HOSTILE,
    width=640,
    height=480,
    sha256="ab" * 32,
    boxes=[SnapshotBox(category_id=7, x=1.5, y=2, width=3, height=4, is_crowd=True)],
)
LABEL = SnapshotImage(image_id=4, file_name="b.jpg", width=10, height=20, sha256="cd" * 32, category_id=1)
ANSWERS: dict[str, Any] = {
    "GetDataset": lambda request: DATASET,
    "ListFindings": lambda request: ListFindingsResponse(),
    "ReadImages": lambda request: [ReadImagesResponse(snapshot=SNAPSHOT), ReadImagesResponse(images=[BOXES, LABEL])],
    "ReadUploadedFile": lambda request: [ReadUploadedFileResponse(chunk=part) for part in (b'{"ima', b'ges":[]}')],
}


def changed(**changes: Any) -> Dataset:
    """The dataset, otherwise."""
    found = Dataset()
    found.CopyFrom(DATASET)
    if "annotation_file_uris" in changes:
        found.ClearField("annotation_file_uris")
    found.MergeFrom(Dataset(**changes))
    return found


async def test_the_page_says_where_labels_go_and_names_from_elsewhere_are_text():
    async with browser(ANSWERS) as one:
        page = (await one.open("/studio/datasets/trees/labels")).text
    assert 'data-upload="/studio/uploads/u%25201/file"' in page
    assert 'data-folder="&lt;script&gt;' in page
    assert "labels.js" in page
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annotation_file_uris": [URI, URI]}, "cannot be corrected here"),
        ({"annotation_file_uris": ["s3://sightline/photos/labels.json"]}, "cannot be corrected here"),
        ({"state": Dataset.VALIDATING}, "once the dataset is ready"),
    ],
)
async def test_a_page_that_cannot_correct_says_why_and_has_no_script(changes: dict[str, Any], words: str):
    async with browser(ANSWERS | {"GetDataset": lambda request: changed(**changes)}) as one:
        page = (await one.open("/studio/datasets/trees/labels")).text
    assert words in page
    assert "labels.js" not in page


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b/uploads/u/a.json", ("u", "", "a.json")),
        ("s3://b/projects/acme/uploads/u/x/y/a b.json", ("u", "x/y/", "a b.json")),
        ("s3://b/uploads/u/uploads/v/a.json", ("u", "uploads/v/", "a.json")),
        ("s3://b/datasets/uploads/u/a.json", None),
        ("s3://b/uploads/u/", None),
    ],
)
def test_an_uploaded_file_is_known_by_its_uri(uri: str, expected: tuple[str, str, str] | None):
    place = place_of(Dataset(annotation_file_uris=[uri]))
    assert (place and (place.upload, place.folder, place.file)) == expected


async def test_records_come_line_by_line():
    async with browser(ANSWERS) as one:
        response = await one("GET", "/studio/datasets/trees/records")
    head, boxes, label = [json.loads(line) for line in response.text.splitlines()]
    assert head == {"digest": "sha256:1", "count": 2, "categories": [[1, "oak"], [7, HOSTILE]]}
    assert boxes == {
        "id": 3,
        "file": HOSTILE,
        "size": [640, 480],
        "tag": "ab" * 8,
        "category": None,
        "boxes": [[7, 1.5, 2, 3, 4, 1]],
    }
    assert (label["category"], label["boxes"]) == (1, [])
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert one.requests("ReadImages")[0].annotations_only


async def test_the_annotation_file_is_passed_on_as_it_is():
    async with browser(ANSWERS) as one:
        response = await one("GET", "/studio/datasets/trees/annotations")
    assert response.json() == {"images": []}
    (request,) = one.requests("ReadUploadedFile")
    assert (request.parent, request.path) == ("uploads/u%201", f"{HOSTILE}/labels.json")


async def test_what_cannot_be_read_is_an_error_in_the_services_words():
    def not_ready(request: Any) -> Any:
        raise DatasetNotReady(name="datasets/trees", state="VALIDATING")

    def gone(request: Any) -> Any:
        raise UploadNotFound(name="uploads/u")

    elsewhere = {"GetDataset": lambda request: changed(annotation_file_uris=["s3://b/photos/a.json"])}
    async with browser(ANSWERS | {"ReadImages": not_ready, "ReadUploadedFile": gone}) as one:
        unready = await one("GET", "/studio/datasets/trees/records")
        lost = await one("GET", "/studio/datasets/trees/annotations")
    async with browser(ANSWERS | elsewhere) as one:
        foreign = await one("GET", "/studio/datasets/trees/annotations")
    assert (unready.status_code, lost.status_code, foreign.status_code) == (400, 404, 400)
    assert "UploadNotFound" in lost.text
    assert not one.requests("ReadUploadedFile")


async def test_a_new_version_is_registered_unless_there_was_another_one_meanwhile():
    uri = "s3://sightline/uploads/u/labels-1.json"
    async with browser(ANSWERS | {"CreateDataset": lambda request: DATASET}) as one:
        await one.open("/studio/datasets/trees/labels")
        response = await one.post("/studio/datasets/trees/versions", uri=uri, digest="sha256:1")
        late = await one.post("/studio/datasets/trees/versions", uri=uri, digest="sha256:0")
    (request,) = one.requests("CreateDataset")
    assert request.new_version
    assert (request.dataset_id, list(request.dataset.annotation_file_uris)) == ("trees", [uri])
    assert request.dataset.annotation_kind == Dataset.OBJECT_DETECTION
    assert (response.status_code, response.headers["location"]) == (303, "/studio/datasets/trees")
    assert late.status_code == 409
    assert "another version" in late.text


@pytest.mark.parametrize(("roles", "offered"), [(("viewer",), False), (("trainer",), True)])
async def test_correcting_is_offered_to_whom_it_is_allowed(roles: tuple[str, ...], offered: bool):
    async with browser(ANSWERS, roles=roles) as one:
        page = (await one.open("/studio/datasets/trees")).text
    assert ("/datasets/trees/labels" in page) == offered
