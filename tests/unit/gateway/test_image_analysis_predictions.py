"""`imageanalysis:analyze`: which model answers, in what shape, and in what forms an image comes."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from services.kit.errors import InvalidImageFormat, ModelNotFound, Overloaded, PermissionDenied, Unauthenticated
from sightline.v1.prediction_pb2 import AnalyzeImageResponse, BoundingBox, DetectedObject, ImageMetadata, Tag
from tests.support.gateway import front

ANALYZE = "/computervision/imageanalysis:analyze?api-version=2023-04-01-preview"
IMAGE = b"\xff\xd8\xff the bytes of an image \r\n--not a boundary"
SIZE = {"width": 640, "height": 480}


def tags(**confidences: float) -> AnalyzeImageResponse:
    """What a classifier answers."""
    answer = AnalyzeImageResponse(model_version="v1", metadata=ImageMetadata(width=640, height=480))
    answer.custom_model_result.tags_result.SetInParent()
    values = [Tag(name=name, confidence=confidence) for name, confidence in confidences.items()]
    answer.custom_model_result.tags_result.values.extend(values)
    return answer


def boxes(*names: str) -> AnalyzeImageResponse:
    """What a detector answers."""
    answer = AnalyzeImageResponse(model_version="v2", metadata=ImageMetadata(width=640, height=480))
    answer.custom_model_result.objects_result.SetInParent()
    for number, name in enumerate(names, 1):
        box = BoundingBox(x=0, y=2, w=30, h=40)
        found = DetectedObject(id=str(number), bounding_box=box, tags=[Tag(name=name, confidence=0.5)])
        answer.custom_model_result.objects_result.values.append(found)
    return answer


def form(boundary: str, image: bytes = IMAGE) -> bytes:
    """A form with an empty field and an image."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\n\r\n--{boundary}\r\n'
    part = 'Content-Disposition: form-data; name="imageData"\r\nContent-Type: application/octet-stream\r\n\r\n'
    return f"{head}{part}".encode() + image + f"\r\n--{boundary}--\r\n".encode()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/octet-stream", IMAGE),
        ("image/png", IMAGE),
        ("image/jpeg; charset=binary", IMAGE),
        ("", IMAGE),
        ("multipart/form-data; boundary=abc", form("abc")),
        ('multipart/form-data; boundary="a b"', form("a b")),
        ("multipart/form-data", form("--xyz123")),
        ("multipart/form-data", b"\r\n" + form("xyz")),
        ("multipart/form-data", IMAGE),
        ("MULTIPART/FORM-DATA", form("xyz")),
    ],
)
async def test_an_image_is_found_in_whatever_form_it_comes(content_type: str, body: bytes):
    async with front({"AnalyzeImage": lambda request: tags(owl=0.75, jay=0.25)}) as gateway:
        headers = {"Content-Type": content_type, "Accept": "*/*"}
        response = await gateway("POST", f"{ANALYZE}&model-name=birds", content=body, headers=headers)
    (request,) = gateway.requests("AnalyzeImage")
    assert response.status_code == 200
    assert (request.model_name, request.image) == ("models/birds", IMAGE)
    assert response.json() == {
        "modelVersion": "v1",
        "metadata": SIZE,
        "customModelResult": {
            "tagsResult": {"values": [{"name": "owl", "confidence": 0.75}, {"name": "jay", "confidence": 0.25}]}
        },
    }


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "", "text/plain"])
async def test_an_image_of_the_own_store_is_named_by_its_uri_or_its_blob_uri(content_type: str):
    settings = {"blob_prefixes": "https://a.blob.core.windows.net/x=s3://sightline/y"}
    async with front({"AnalyzeImage": lambda request: tags(owl=1.0)}, **settings) as gateway:
        for body in (b'{"url": "s3://sightline/z/1.png"}', b'{"Url": "https://a.blob.core.windows.net/x/1%202.png"}'):
            headers = {"Content-Type": content_type}
            response = await gateway("POST", f"{ANALYZE}&model-name=m", content=body, headers=headers)
            assert response.status_code == 200
        other = await gateway("POST", f"{ANALYZE}&model-name=m", json={"url": "https://elsewhere.example/1.png"})
    asked = [request.uri for request in gateway.requests("AnalyzeImage")]
    assert asked == ["s3://sightline/z/1.png", "s3://sightline/y/1 2.png"]
    assert (other.status_code, other.json()["error"]["code"]) == (400, "InvalidRequest")


@pytest.mark.parametrize("answer", [tags(), boxes()])
async def test_values_are_there_even_if_there_are_none(answer: AnalyzeImageResponse):
    async with front({"AnalyzeImage": lambda request: answer}) as gateway:
        response = await gateway("POST", f"{ANALYZE}&model-name=m", content=IMAGE)
    (result,) = response.json()["customModelResult"].values()
    assert result == {"values": []}


async def test_a_detector_answers_with_boxes_in_pixels_and_a_zero_is_there_too():
    async with front({"AnalyzeImage": lambda request: boxes("fork")}) as gateway:
        response = await gateway("POST", f"{ANALYZE}&model-name=m", content=IMAGE)
    box = {"x": 0, "y": 2, "w": 30, "h": 40}
    found = {"id": "1", "boundingBox": box, "tags": [{"name": "fork", "confidence": 0.5}]}
    assert response.json()["customModelResult"] == {"objectsResult": {"values": [found]}}


async def test_a_named_model_wins_over_features():
    settings = {"default_classifier": "other", "default_detector": "another"}
    async with front({"AnalyzeImage": lambda request: tags(owl=1.0)}, **settings) as gateway:
        query = "&features=tags,objects,read&model-name=birds&language=de&smartcrops-aspect-ratios=0.8"
        response = await gateway("POST", ANALYZE.replace("2023-04-01-preview", "2023-10-01") + query, content=IMAGE)
    assert [request.model_name for request in gateway.requests("AnalyzeImage")] == ["models/birds"]
    assert response.json().keys() == {"modelVersion", "metadata", "customModelResult"}


async def test_features_alone_are_answered_at_the_top_by_the_models_configured_for_them():
    def answer(request: Any) -> AnalyzeImageResponse:
        return tags(owl=1.0) if request.model_name == "models/birds" else boxes()

    settings = {"default_classifier": "birds", "default_detector": "forks"}
    async with front({"AnalyzeImage": answer}, **settings) as gateway:
        both = (await gateway("POST", f"{ANALYZE}&features=Tags,objects", content=IMAGE)).json()
        one = (await gateway("POST", f"{ANALYZE}&features=objects", content=IMAGE)).json()
    assert both == {
        "modelVersion": "v1",
        "metadata": SIZE,
        "tagsResult": {"values": [{"name": "owl", "confidence": 1.0}]},
        "objectsResult": {"values": []},
    }
    assert one == {"modelVersion": "v2", "metadata": SIZE, "objectsResult": {"values": []}}


@pytest.mark.parametrize(
    ("query", "inner"),
    [("&features=caption", "NotSupportedVisualFeature"), ("&features=objects", "NotSupportedVisualFeature"),
     ("", "BadArgument")],
)  # fmt: skip
async def test_a_feature_without_a_model_is_refused_with_the_inner_code_in_the_details(query: str, inner: str):
    async with front({}, default_classifier="birds") as gateway:
        response = await gateway("POST", ANALYZE + query, content=IMAGE)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "InvalidRequest"
    assert [one["code"] for one in error["details"]] == [inner]
    assert error.keys() <= {"code", "message", "target", "details"}


async def test_the_first_version_of_the_api_answered_in_another_shape():
    first = ANALYZE.replace("2023-04-01-preview", "2023-02-01-preview")
    async with front({"AnalyzeImage": lambda request: tags(owl=0.5)}) as gateway:
        response = await gateway("POST", f"{first}&model-name=m", content=IMAGE)
    assert response.json() == {
        "kind": "imageAnalysisResult",
        "metadata": SIZE,
        "customModelResult": {
            "classifications": [{"confidence": 0.5, "label": "owl"}],
            "objects": [],
            "imageMetadata": SIZE,
        },
    }


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidImageFormat(file="image", problem="it is no image"), 400, "InvalidImageFormat"),
        (ModelNotFound(name="models/m"), 404, "ModelNotFound"),
        (Unauthenticated(rpc="AnalyzeImage", role="predictor", problem="it has none"), 401, "PermissionDenied"),
        (PermissionDenied(rpc="AnalyzeImage", role="predictor", caller="a", roles="viewer"), 403, "PermissionDenied"),
        (Overloaded(service="predictor", limit=1, what="calls"), 503, "Overloaded"),
    ],
)
async def test_a_failed_prediction_is_reported_as_the_api_does(error: Any, status: int, code: str):
    def refuse(request: Any) -> Any:
        raise error

    async with front({"AnalyzeImage": refuse}) as gateway:
        response = await gateway("POST", f"{ANALYZE}&model-name=m", content=IMAGE)
    assert response.status_code == status
    assert response.headers["x-ms-error-code"] == response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) == (status == 503)


async def test_an_image_that_is_too_large_is_refused():
    async with front({}, max_prediction_image_bytes=1000) as gateway:
        response = await gateway("POST", f"{ANALYZE}&model-name=m", content=b"x" * 6000)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "MessageTooLarge"


async def test_a_compressed_body_is_refused_by_its_header():
    async with front({}) as gateway:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        response = await gateway("POST", f"{ANALYZE}&model-name=birds", content=gzip.compress(b"{}"), headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "content-encoding: 'gzip' is not accepted; send the body uncompressed"


async def test_the_file_of_a_form_is_the_image_whatever_text_comes_before_it():
    body = form("abc").replace(b'name="note"\r\n\r\n', b'name="note"\r\n\r\nan owl')
    body = body.replace(b'name="imageData"', b'name="imageData"; filename="owl.jpg"')
    async with front({"AnalyzeImage": lambda request: tags(owl=0.75)}) as gateway:
        headers = {"Content-Type": "multipart/form-data; boundary=abc"}
        await gateway("POST", f"{ANALYZE}&model-name=birds", content=body, headers=headers)
    assert gateway.requests("AnalyzeImage")[0].image == IMAGE


@pytest.mark.parametrize("body", [form("abc", b""), b"", b"--abc\r\nno form at all"])
async def test_a_form_without_an_image_is_refused(body: bytes):
    async with front({}) as gateway:
        headers = {"Content-Type": "multipart/form-data; boundary=abc"}
        response = await gateway("POST", f"{ANALYZE}&model-name=m", content=body, headers=headers)
    assert response.status_code == 400
