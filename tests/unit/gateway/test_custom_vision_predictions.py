"""Custom Vision's predictions: which model a published name leads to, and the shape of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.custom_vision.iterations import PUBLISHED
from services.kit.errors import InvalidImageFormat, ModelNotFound, Unauthenticated
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import ListModelsResponse
from tests.support.gateway import front
from tests.unit.gateway.test_image_analysis_predictions import IMAGE, boxes, form, tags

BASE = "/customvision/v3.1/prediction/p1"


def model(name: str, project: str = "p1", published: str = "") -> Model:
    properties = {PUBLISHED: published} if published else {}
    parameters = TrainingParameters(training_dataset=f"datasets/{project}")
    return Model(name=f"models/{name}", training_parameters=parameters, custom_properties=properties)


MODELS = [model("other", "p2", "live"), model("i1", published="live"), model("i2")]


def answers(predicted: Any) -> dict[str, Any]:
    def get(request: Any) -> Model:
        found = next((one for one in MODELS if one.name == request.name), None)
        if found is None:
            raise ModelNotFound(name=request.name)
        return found

    return {
        "ListModels": lambda request: ListModelsResponse(models=MODELS),
        "GetModel": get,
        "AnalyzeImage": lambda request: predicted,
    }


@pytest.mark.parametrize("version", ["v3.0", "v3.1"])
@pytest.mark.parametrize("end", ["image", "image/nostore"])
@pytest.mark.parametrize("name", ["live", "i1"])
async def test_an_image_is_classified_by_a_published_name_or_the_model_s_own(version: str, end: str, name: str):
    path = f"/customvision/{version}/prediction/p1/classify/iterations/{name}/{end}"
    async with front(answers(tags(owl=0.75, jay=0.25))) as gateway:
        headers = {"Content-Type": "multipart/form-data; boundary=abc", "Prediction-key": "slk_a"}
        response = await gateway("POST", path, content=form("abc"), headers=headers)
    (request,) = gateway.requests("AnalyzeImage")
    found = response.json()
    assert response.status_code == 200
    assert (request.model_name, request.image) == ("models/i1", IMAGE)
    assert not request.HasField("score_threshold")
    assert found.keys() == {"id", "project", "iteration", "created", "predictions"}
    assert (found["project"], found["iteration"]) == ("p1", "i1")
    assert [(one["tagName"], one["probability"], one["tagType"]) for one in found["predictions"]] == [
        ("owl", 0.75, "Regular"),
        ("jay", 0.25, "Regular"),
    ]
    assert len({one["tagId"] for one in found["predictions"]}) == 2
    assert "boundingBox" not in found["predictions"][0]


async def test_objects_have_boxes_in_fractions_and_the_ids_of_their_tags_never_change():
    found: list[dict[str, Any]] = []
    for _ in range(2):
        async with front(answers(boxes("fork"))) as gateway:
            response = await gateway("POST", f"{BASE}/detect/iterations/live/image", content=IMAGE)
            found += response.json()["predictions"]
            assert gateway.requests("AnalyzeImage")[0].score_threshold == pytest.approx(0.01)
    first, second = found
    assert first["boundingBox"] == {"left": 0.0, "top": 2 / 480, "width": 30 / 640, "height": 40 / 480}
    assert first["tagId"] == second["tagId"]


async def test_nothing_found_is_an_empty_list():
    async with front(answers(boxes())) as gateway:
        response = await gateway("POST", f"{BASE}/detect/iterations/live/image", content=IMAGE)
    assert response.json()["predictions"] == []


async def test_an_image_at_a_url_of_the_own_store_is_predicted_and_no_other_is_fetched():
    async with front(answers(tags(owl=1.0))) as gateway:
        own = await gateway("POST", f"{BASE}/classify/iterations/live/url", json={"Url": "s3://sightline/1.png"})
        other = await gateway("POST", f"{BASE}/classify/iterations/live/url/nostore", json={"url": "https://x.y/1.png"})
    assert own.status_code == 200
    assert [one.uri for one in gateway.requests("AnalyzeImage")] == ["s3://sightline/1.png"]
    assert (other.status_code, other.json()["code"]) == (400, "BadRequest")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/customvision/v2.0/prediction/p1/classify/iterations/live/image", 400, "BadRequest"),
        (f"{BASE}/classify/iterations/none/image", 404, "NotFoundIteration"),
        (f"{BASE}/classify/iterations/other/image", 404, "NotFoundIteration"),
        (f"{BASE}/detect/iterations/live/image", 400, "BadRequestNotSupported"),
        ("/customvision/v3.1/nothing", 404, "NotFound"),
    ],
)
async def test_what_cannot_be_answered_is_refused_in_the_codes_of_the_api(path: str, status: int, code: str):
    async with front(answers(tags(owl=1.0))) as gateway:
        response = await gateway("POST", path, content=IMAGE)
    assert response.status_code == status
    assert response.json().keys() == {"code", "message"}
    assert response.json()["code"] == code


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidImageFormat(file="image", problem="it is none"), 400, "BadRequestImageFormat"),
        (Unauthenticated(rpc="AnalyzeImage", role="predictor", problem="it has none"), 401, "Unauthorized"),
    ],
)
async def test_a_failed_prediction_is_reported_in_the_codes_of_the_api(error: Any, status: int, code: str):
    def refuse(request: Any) -> Any:
        raise error

    async with front(answers(None) | {"AnalyzeImage": refuse}) as gateway:
        response = await gateway("POST", f"{BASE}/classify/iterations/live/image", content=IMAGE)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_published_name_is_looked_up_once_in_a_while_for_each_caller():
    async with front(answers(tags(owl=1.0))) as gateway:
        for key in ("a", "a", "b"):
            headers = {"Prediction-Key": key}
            await gateway("POST", f"{BASE}/classify/iterations/live/image", content=IMAGE, headers=headers)
    assert len(gateway.requests("ListModels")) == 2
