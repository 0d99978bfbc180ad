"""What holds for every request: keys, projects, unknown paths, and the OpenAPI document."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Route

from services.gateway import apis
from services.gateway.exchange import whole_number
from services.gateway.fields import MAX_VALUES, read_json
from services.gateway.settings import GatewaySettings, refuse_plain_tokens
from services.kit.errors import DatasetNotFound, InvalidRequest
from sightline.v1.dataset_service_pb2 import ListDatasetsResponse
from tests.support.gateway import front
from tests.support.logs import captured_log, events

LIST = "/computervision/datasets"
EMPTY: dict[str, Any] = {"ListDatasets": lambda request: ListDatasetsResponse()}


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Ocp-Apim-Subscription-Key": "slk_a"}, "Bearer slk_a"),
        ({"ocp-apim-subscription-key": " slk_a "}, "Bearer slk_a"),
        ({"OCP-APIM-SUBSCRIPTION-KEY": "slk_a"}, "Bearer slk_a"),
        ({"Prediction-key": "slk_a"}, "Bearer slk_a"),
        ({"Prediction-Key": "slk_a"}, "Bearer slk_a"),
        ({"training-key": "slk_a"}, "Bearer slk_a"),
        ({"Authorization": "Bearer slk_a", "Training-Key": "slk_b"}, "Bearer slk_a"),
        ({"Authorization": "bearer slk_a"}, "bearer slk_a"),
        ({"Authorization": "Basic abc", "Training-Key": "slk_b"}, "Bearer slk_b"),
        ({}, None),
    ],
)
async def test_a_token_travels_on_whatever_header_carries_it(headers: dict[str, str], token: str | None):
    async with front(EMPTY) as gateway:
        await gateway("GET", LIST, headers=headers)
    assert gateway.seen[0].metadata.get("authorization") == token


async def test_the_project_and_the_id_of_a_request_travel_on():
    async with front(EMPTY) as gateway:
        response = await gateway("GET", LIST, headers={"Sightline-Project": "acme", "X-Request-Id": "mine"})
    sent = gateway.seen[0].metadata
    assert sent.pop("traceparent")
    assert sent == {"sightline-project": "acme", "x-request-id": "mine"}
    assert response.headers["x-request-id"] == "mine"


async def test_a_key_is_in_no_error():
    def refuse(request: Any) -> Any:
        raise DatasetNotFound(name="datasets/x")

    async with front({"GetDataset": refuse}) as gateway:
        response = await gateway("GET", f"{LIST}/x", headers={"Training-Key": "slk_secret"})
    assert response.status_code == 404
    assert "slk_secret" not in response.text


async def test_unknown_paths_and_methods_are_reported_as_the_api_does():
    async with front({}) as gateway:
        missing = await gateway("GET", "/computervision/nothing")
        outside = await gateway("GET", "/")
        wrong = await gateway("POST", f"{LIST}/x")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "NotFound")
    assert outside.status_code == 404
    assert wrong.status_code == 405
    assert set(wrong.headers["allow"].split(", ")) >= {"GET", "PUT", "PATCH", "DELETE"}


@pytest.mark.parametrize(
    ("path", "code"), [(LIST, "internalServerError"), ("/customvision/v3.3/training/projects", "ErrorUnknown")]
)
async def test_a_bug_is_reported_as_the_api_does_under_an_id_that_is_in_the_log(path: str, code: str):
    def fail(request: Any) -> Any:
        raise RuntimeError("a secret of the inside")

    with captured_log() as log:
        async with front({"ListDatasets": fail, "ListUploads": fail}) as gateway:
            response = await gateway("GET", path)
    (logged,) = events(log, "internal_error")
    assert response.status_code == 500
    found = response.json()
    assert found.get("error", found)["code"] == code
    assert logged["error_id"] in response.text
    assert "secret" not in response.text


@pytest.mark.parametrize("item", ["{}", "[]", "0"])
def test_json_of_too_many_values_is_refused_before_it_is_decoded(item: str):
    def body(count: int) -> bytes:
        return f'{{"a": [{",".join([item] * count)}], "b": "c"}}'.encode()

    each = 1 if item == "0" else 2
    most = (MAX_VALUES - 2) // each
    assert read_json(body(most)).text("b") == "c"
    with pytest.raises(InvalidRequest, match="body: it has more than 200000 values"):
        read_json(body(most + 1))
    with pytest.raises(InvalidRequest, match="more than 200000 values"):
        read_json(b"," * (MAX_VALUES + 1))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("30", 30),
        ("31", None),
        ("00000000000999999", None),
        ("0" * 5000 + "1", None),
        ("9" * 5000, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        (" 1", None),
        ("1\n", None),
        ("\u0661", None),
    ],
)
def test_a_whole_number_is_written_in_a_few_digits(text: str, number: int | None):
    assert whole_number(text, 30) == number
    assert whole_number("0", 30, least=1) is None
    assert whole_number(str(2**63 - 1)) == 2**63 - 1
    assert whole_number(str(2**63)) is None


async def test_the_document_describes_every_route_and_no_other():
    async with front({}) as gateway:
        document = (await gateway("GET", "/openapi.json")).json()
        app: Any = gateway.client._transport
        routes = [one for one in app.app._app._starlette.routes if isinstance(one, Route)]
    served = {
        (route.path, method.lower())
        for route in routes
        for method in (route.methods or ())
        if method != "HEAD" and route.path != "/openapi.json"
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == served
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert in_path == {part.split("}")[0] for part in path.split("{")[1:]}, (method, path)
            assert operation["summary"]
            assert operation["responses"]


def test_every_operation_of_an_api_is_unique():
    for api in apis.served():
        named = [(one.method, one.path) for one in api.operations]
        assert len(named) == len(set(named))


@pytest.mark.parametrize(
    "text", ["x", "https://a/b", "s3://a/b=https://c/d", "https://a/b=s3://", "ftp://a=s3://b", "=s3://b"]
)
def test_a_wrong_table_of_blob_prefixes_is_refused(text: str):
    with pytest.raises(ValueError, match="is not `https://HOST/PATH=s3://BUCKET/PREFIX`"):
        GatewaySettings(blob_prefixes=text)


def test_the_longest_prefix_counts_and_hosts_have_no_case():
    uris = GatewaySettings(
        blob_prefixes="https://A.blob.example/x=s3://one/,https://a.blob.example/x/y=s3://two/z"
    ).blob_uris
    assert uris.to_store("https://a.blob.example/x/1.png?sig=1") == "s3://one/1.png"
    assert uris.to_store("HTTPS://a.BLOB.example/x/y/1.png") == "s3://two/z/1.png"
    assert uris.from_store("s3://two/z/1 2.png") == "https://a.blob.example/x/y/1%202.png"
    assert uris.from_store("s3://three/1.png") == "s3://three/1.png"
    for foreign in ("https://a.blob.example/xy/1.png", "https://a.blob.example.evil/x/1.png", "https://b/x/1.png"):
        with pytest.raises(Exception, match="SIGHTLINE_BLOB_PREFIXES"):
            uris.to_store(foreign)


def test_tokens_are_not_passed_on_in_plain_text():
    refuse_plain_tokens(GatewaySettings())
    refuse_plain_tokens(GatewaySettings(dataset_address="dataset:50051", tls_ca="system"))
    refuse_plain_tokens(GatewaySettings(dataset_address="dataset:50051", insecure=True))
    with pytest.raises(SystemExit, match="SIGHTLINE_TLS_CA"):
        refuse_plain_tokens(GatewaySettings(predictor_address="predictor:50053"))
