"""Datasets as clients of Image Analysis 4.0 know them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.kit.errors import DatasetAlreadyExists, DatasetNotFound, EtagMismatch
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import ListDatasetsResponse, WatchDatasetResponse
from tests.support.gateway import front

BLOBS = "https://account.blob.core.windows.net/photos"
PREFIXES = f"{BLOBS}/=s3://sightline/azure/photos/"
PATH = "/computervision/datasets/birds?api-version=2023-04-01-preview"


def dataset(**changes: Any) -> Dataset:
    """A READY dataset."""
    fields: dict[str, Any] = {
        "name": "datasets/birds",
        "annotation_kind": Dataset.IMAGE_CLASSIFICATION,
        "annotation_file_uris": ["s3://sightline/azure/photos/train.json"],
        "state": Dataset.READY,
        "create_time": Timestamp(seconds=1_700_000_000),
        "update_time": Timestamp(seconds=1_700_000_100),
        "etag": "7",
    }
    return Dataset(**fields | changes)


@pytest.mark.parametrize(
    "body",
    [
        {"annotationKind": "imageClassification", "annotationFileUris": [f"{BLOBS}/train.json"]},
        {"AnnotationKind": "imageClassification", "AnnotationFileUris": [f"{BLOBS}/train.json"]},
        {"ANNOTATIONKIND": "imageclassification", "annotationfileuris": [f"{BLOBS}/train.json?sv=1&sig=secret"]},
    ],
)
async def test_a_dataset_is_registered_whatever_the_case_of_the_keys(body: dict[str, Any]):
    body |= {"authentication": {"kind": "sas", "sasToken": "secret"}, "customProperties": {"Team": "A"}}
    async with front({"CreateDataset": lambda request: dataset()}, blob_prefixes=PREFIXES) as gateway:
        response = await gateway("PUT", PATH, json=body)
    (request,) = gateway.requests("CreateDataset")
    assert response.status_code == 201
    assert response.headers["etag"] == '"7"'
    assert request.dataset_id == "birds"
    assert request.dataset.annotation_kind == Dataset.IMAGE_CLASSIFICATION
    assert request.dataset.annotation_file_uris == ["s3://sightline/azure/photos/train.json"]
    assert request.dataset.custom_properties == {"Team": "A"}
    assert "secret" not in str(request)
    assert response.json() == {
        "name": "birds",
        "annotationKind": "imageClassification",
        "annotationFileUris": [f"{BLOBS}/train.json"],
        "customProperties": {},
        "createdDateTime": "2023-11-14T22:13:20.000Z",
        "updatedDateTime": "2023-11-14T22:15:00.000Z",
        "eTag": "7",
    }


@pytest.mark.parametrize("uri", ["https://[::1/a.json?sig=secret", "https://\u2100.example/a.json?sig=secret"])
async def test_a_malformed_blob_uri_is_refused_without_its_token(uri: str):
    body = {"annotationKind": "imageClassification", "annotationFileUris": [uri]}
    async with front({}, blob_prefixes=PREFIXES) as gateway:
        response = await gateway("PUT", PATH, json=body)
    assert (response.status_code, gateway.seen) == (400, [])
    assert "it is malformed" in response.text
    assert "secret" not in response.text


async def test_a_blob_uri_that_no_prefix_covers_is_refused_without_its_token():
    body = {"annotationKind": "imageClassification", "annotationFileUris": ["https://other.example/a.json?sig=secret"]}
    async with front({}, blob_prefixes=PREFIXES) as gateway:
        response = await gateway("PUT", PATH, json=body)
    assert gateway.seen == []
    assert response.status_code == 400
    assert response.headers["x-ms-error-code"] == response.json()["error"]["code"] == "InvalidRequest"
    assert "SIGHTLINE_BLOB_PREFIXES" in response.text
    assert "secret" not in response.text


async def test_a_name_in_use_is_a_conflict():
    def refuse(request: Any) -> Dataset:
        raise DatasetAlreadyExists(name="datasets/birds")

    body = {"annotationKind": "imageClassification", "annotationFileUris": ["s3://sightline/a.json"]}
    async with front({"CreateDataset": refuse}) as gateway:
        response = await gateway("PUT", PATH, json=body)
    assert response.status_code == 409
    assert response.headers["x-ms-error-code"] == "DatasetAlreadyExists"
    assert response.json()["error"].keys() == {"code", "message"}


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({}, "annotationFileUris"),
        ({"annotationFileUris": "s3://a/b"}, "annotationFileUris"),
        ({"annotationFileUris": ["s3://a/b"]}, "annotationKind"),
        ({"annotationFileUris": ["s3://a/b"], "annotationKind": "images"}, "annotationKind"),
        ({"annotationFileUris": ["s3://a/b"], "annotationKind": "imageClassification", "customProperties": {"a": 1}},
         "customProperties.a"),
    ],
)  # fmt: skip
async def test_a_wrong_body_is_refused_by_the_field_at_fault(body: dict[str, Any], target: str):
    async with front({}) as gateway:
        response = await gateway("PUT", PATH, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["target"] == target


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": NaN}', b'{"a": ' * 50 + b"1" + b"}" * 50, b'"text"'])
async def test_what_is_not_a_json_object_is_refused(content: bytes):
    async with front({}) as gateway:
        response = await gateway("PUT", PATH, content=content)
    assert response.status_code == 400
    assert response.json()["error"]["target"] == "body"


async def test_several_slashes_in_a_path_are_one():
    async with front({"GetDataset": lambda request: dataset()}) as gateway:
        response = await gateway("GET", "/computervision//datasets///birds?api-version=2023-04-01-preview")
    assert response.status_code == 200
    assert gateway.requests("GetDataset")[0].name == "datasets/birds"


async def test_an_unknown_version_of_the_api_is_refused():
    async with front({}) as gateway:
        response = await gateway("GET", "/computervision/datasets/birds?api-version=2022-01-01")
    assert response.status_code == 400
    assert "2023-04-01-preview" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("header", "etag"), [('"7"', "7"), ('W/"7"', "7"), ('"6", "7"', "7"), ("*", ""), ("", ""), ('""', "none")]
)
async def test_a_change_is_made_only_to_the_revision_that_if_match_names(header: str, etag: str):
    known = dataset(custom_properties={"kept": "1", "removed": "2"})
    answers = {"GetDataset": lambda request: known, "UpdateDataset": lambda request: dataset(etag="8")}
    async with front(answers) as gateway:
        body = {"customProperties": {"added": "3", "removed": None}}
        response = await gateway("PATCH", PATH, json=body, headers={"If-Match": header} if header else {})
    (request,) = gateway.requests("UpdateDataset")
    assert response.status_code == 200
    assert response.headers["etag"] == '"8"'
    assert request.dataset.etag == etag
    assert request.dataset.custom_properties == {"kept": "1", "added": "3"}
    assert request.update_mask.paths == ["custom_properties"]


@pytest.mark.parametrize(("method", "rpc"), [("PATCH", "UpdateDataset"), ("DELETE", "DeleteDataset")])
async def test_a_revision_that_is_not_current_fails_the_precondition(method: str, rpc: str):
    def refuse(request: Any) -> Any:
        etag = request.etag if rpc == "DeleteDataset" else request.dataset.etag
        raise EtagMismatch(name="datasets/birds", etag=etag, current="7")

    async with front({"GetDataset": lambda request: dataset(), rpc: refuse}) as gateway:
        response = await gateway(
            method, PATH, headers={"If-Match": '"6"'}, content=b"{}" if method == "PATCH" else None
        )
    assert response.status_code == 412
    assert response.json()["error"]["code"] == "EtagMismatch"


async def test_other_annotation_files_become_the_next_version():
    answers = {"GetDataset": lambda request: dataset(), "CreateDataset": lambda request: dataset(version=2)}
    async with front(answers, blob_prefixes=PREFIXES) as gateway:
        same = await gateway("PATCH", PATH, json={"AnnotationFileUris": [f"{BLOBS}/train.json"]})
        await gateway("PATCH", PATH, json={"AnnotationFileUris": [f"{BLOBS}/more.json"]})
        kind = await gateway("PATCH", PATH, json={"annotationKind": "imageObjectDetection"})
    (request,) = gateway.requests("CreateDataset")
    assert same.status_code == 200
    assert request.new_version
    assert request.dataset.annotation_file_uris == ["s3://sightline/azure/photos/more.json"]
    assert kind.status_code == 400


async def test_a_deleted_dataset_is_gone_when_the_request_returns():
    answers: dict[str, Any] = {
        "GetDataset": lambda request: dataset(),
        "DeleteDataset": lambda request: None,
        "WatchDataset": lambda request: [
            WatchDatasetResponse(dataset=dataset(state=Dataset.DELETING)),
            DatasetNotFound(name="datasets/birds"),
        ],
    }
    async with front(answers) as gateway:
        response = await gateway("DELETE", PATH)
    assert (response.status_code, response.content) == (204, b"")
    assert [one.rpc for one in gateway.seen] == ["GetDataset", "DeleteDataset", "WatchDataset"]


async def test_a_dataset_that_is_being_deleted_is_neither_found_nor_listed():
    leaving = dataset(state=Dataset.DELETING)
    answers: dict[str, Any] = {
        "GetDataset": lambda request: leaving,
        "ListDatasets": lambda request: ListDatasetsResponse(datasets=[leaving]),
    }
    async with front(answers) as gateway:
        found = await gateway("GET", PATH)
        listed = await gateway("GET", "/computervision/datasets")
    assert found.status_code == 404
    assert found.json()["error"]["code"] == "datasetNotFound"
    assert listed.json() == {"value": []}


async def test_a_list_is_walked_by_its_next_links():
    names = [f"d{number:02d}" for number in range(25)]

    def page(request: Any) -> ListDatasetsResponse:
        start = int(request.page_token or 0)
        found = [dataset(name=f"datasets/{name}") for name in names[start : start + 4]]
        return ListDatasetsResponse(datasets=found, next_page_token=str(start + 4) if start + 4 < len(names) else "")

    walked: list[str] = []
    async with front({"ListDatasets": page}) as gateway:
        link = "/computervision/datasets?api-version=2023-04-01-preview&skip=3&top=7"
        while link:
            answer = (await gateway("GET", link)).json()
            assert "nextLink" not in answer or len(answer["value"]) == 7
            walked += [one["name"] for one in answer["value"]]
            link = answer.get("nextLink", "")
            assert not link or "api-version=2023-04-01-preview" in link
    assert walked == names[3:]


@pytest.mark.parametrize(
    "query",
    [
        "top=0",
        "top=31",
        "skip=-1",
        "skip=2147483648",
        "top=x",
        "skip=1.5",
        "top=%D9%A1",
        "top=00000000000999",
        "skip=00000000000" + "9" * 5000,
    ],
    ids=lambda query: query[:20],
)
async def test_a_list_refuses_numbers_out_of_range(query: str):
    async with front({}) as gateway:
        response = await gateway("GET", f"/computervision/datasets?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["target"] == query.partition("=")[0]


async def test_a_list_has_ten_by_default():
    many = ListDatasetsResponse(datasets=[dataset(name=f"datasets/d{number:02d}") for number in range(12)])
    async with front({"ListDatasets": lambda request: many}) as gateway:
        answer = (await gateway("GET", "/computervision/datasets")).json()
    assert len(answer["value"]) == 10
    assert "skip=10" in answer["nextLink"]
