"""Trying a model, and what operators see."""

from __future__ import annotations

import base64
import html
import json
import re
from typing import Any

import pytest

from services.kit.errors import AuditNotStored, FeedbackNotKept, InvalidImageFormat
from sightline.v1.audit_service_pb2 import AuditEvent, ListAuditEventsResponse
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.prediction_pb2 import (
    AnalyzeImageResponse,
    BoundingBox,
    CustomModelResult,
    DetectedObject,
    ImageMetadata,
    LoadedModel,
    ObjectsResult,
    Tag,
    TagsResult,
)
from sightline.v1.prediction_service_pb2 import (
    ExplainImageResponse,
    ListLoadedModelsResponse,
    SuggestImagesResponse,
)
from sightline.v1.project_pb2 import CountQuota, Project
from sightline.v1.project_service_pb2 import ListProjectsResponse
from tests.support.studio import browser

HOSTILE = "<script>alert(1)</script>\"'"
MODEL = Model(
    name="models/m",
    model_version="v1",
    training_parameters=TrainingParameters(
        model_kind=TrainingParameters.GENERIC_DETECTOR, training_dataset="datasets/birds"
    ),
    categories=[HOSTILE],
    suggested_thresholds={HOSTILE: 0.25},
)
SIZE = ImageMetadata(width=640, height=480)
ADMIN: dict[str, Any] = {
    "ListLoadedModels": lambda request: ListLoadedModelsResponse(
        loaded_models=[LoadedModel(model_name="models/m", size_bytes=3 * 1024**2, use_count=1234)]
    ),
    "ListProjects": lambda request: ListProjectsResponse(
        projects=[Project(project_id="acme", datasets=CountQuota(used=3, limit=10))]
    ),
    "ListAuditEvents": lambda request: ListAuditEventsResponse(
        events=[AuditEvent(subject=HOSTILE, rpc="ModelService/DeleteModel", resource=HOSTILE, code="PERMISSION_DENIED")]
    ),
}


async def test_the_page_carries_thresholds_and_calls_and_no_token():
    async with browser({"GetModel": lambda request: MODEL}) as one:
        await one.open("/studio/sign-in")
        await one.post("/studio/sign-in", token="slk_good")
        page = (await one.open("/studio/models/m/try")).text
    found = re.search(r'data-thresholds="([^"]*)"', page)
    assert found
    assert json.loads(html.unescape(found[1])) == {HOSTILE: 0.25}
    for words in ("model-name=m", "sightline.v1.PredictionService/AnalyzeImage", "client.predict"):
        assert words in page
    assert "slk_good" not in page
    assert "<script>alert" not in page


@pytest.mark.parametrize(("roles", "offered"), [(("predictor",), False), (("predictor", "trainer"), True)])
async def test_wrong_answers_can_be_put_aside_by_whoever_may_change_the_dataset(roles: tuple[str, ...], offered: bool):
    async with browser({"GetModel": lambda request: MODEL}, roles=roles) as one:
        page = (await one.open("/studio/models/m/try")).text
    assert bool(re.search(r'data-dataset="[^"/]+/datasets/birds"', page)) == offered
    assert ('href="/studio/datasets/birds/labels"' in page) == offered
    found = re.search(r'data-categories="([^"]*)"', page)
    assert bool(found) == offered
    if found:
        assert json.loads(html.unescape(found[1])) == [HOSTILE]
    assert "<script>alert" not in page


async def test_kept_images_come_with_their_answers_and_names_stay_data():
    answer = AnalyzeImageResponse(
        metadata=SIZE, custom_model_result=CustomModelResult(tags_result=TagsResult(values=[Tag(name=HOSTILE)]))
    )
    kept = [
        SuggestImagesResponse(image_id=HOSTILE, image=content, extension="png", prediction=answer)
        for content in (b"\x89PNG\r\n\x1a\n1", b"<html>")
    ]
    async with browser({"SuggestImages": lambda request: kept}) as one:
        response = await one("GET", "/studio/models/m/suggestions")
    first, second = [json.loads(line) for line in response.text.splitlines()]
    assert (first["name"], first["type"]) == (f"{HOSTILE}.png", "image/png")
    assert second["type"] == "application/octet-stream"
    assert base64.b64decode(first["image"]) == kept[0].image
    assert first["answer"] == {"width": 640, "height": 480, "results": [{"name": HOSTILE, "confidence": 0.0}]}
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert one.requests("SuggestImages")[0].model_name == "models/m"


async def test_no_kept_images_and_a_predictor_that_keeps_none_are_told_apart():
    def refuse(request: Any) -> Any:
        raise FeedbackNotKept(setting="SIGHTLINE_FEEDBACK_BELOW")

    async with browser({"SuggestImages": lambda request: []}) as one, browser({"SuggestImages": refuse}) as other:
        empty = await one("GET", "/studio/models/m/suggestions")
        off = await other("GET", "/studio/models/m/suggestions")
    assert (empty.status_code, empty.text) == (200, "")
    assert off.status_code == 400
    assert "SIGHTLINE_FEEDBACK_BELOW" in off.text


async def test_a_model_without_a_bundle_says_so():
    async with browser({"GetModel": lambda request: Model(name="models/m")}) as one:
        page = (await one.open("/studio/models/m/try")).text
    assert "cannot predict yet" in page
    assert 'id="drop"' not in page


async def test_everything_that_a_detector_scores_is_sent_so_that_the_page_can_move_the_threshold():
    found = DetectedObject(bounding_box=BoundingBox(x=1, y=2, w=3, h=4), tags=[Tag(name=HOSTILE, confidence=0.5)])
    result = CustomModelResult(objects_result=ObjectsResult(values=[found]))
    async with browser(
        {
            "ListModels": lambda request: None,
            "GetModel": lambda request: MODEL,
            "AnalyzeImage": lambda request: AnalyzeImageResponse(metadata=SIZE, custom_model_result=result),
        }
    ) as one:
        await one.open("/studio/models/m/try")
        response = await one.send("/studio/models/m/analyze", b"image")
    expected = {"name": HOSTILE, "confidence": 0.5, "box": [1, 2, 3, 4]}
    assert response.json() == {"width": 640, "height": 480, "results": [expected]}
    assert response.headers["content-type"] == "application/json"
    (request,) = one.requests("AnalyzeImage")
    assert (request.model_name, request.image, request.score_threshold) == ("models/m", b"image", 0)
    assert request.HasField("score_threshold")


async def test_a_classifier_answers_with_its_categories_and_an_explanation_with_its_picture():
    result = CustomModelResult(tags_result=TagsResult(values=[Tag(name="oak", confidence=0.75)]))
    explained = ExplainImageResponse(tag=Tag(name="oak", confidence=0.75), overlay_png=b"png")
    async with browser(
        {
            "GetModel": lambda request: MODEL,
            "AnalyzeImage": lambda request: AnalyzeImageResponse(metadata=SIZE, custom_model_result=result),
            "ExplainImage": lambda request: explained,
        }
    ) as one:
        await one.open("/studio/models/m/try")
        answered = (await one.send("/studio/models/m/analyze", b"image")).json()
        picture = (await one.send("/studio/models/m/explain?tag=oak%20tree", b"image")).json()
    assert answered["results"] == [{"name": "oak", "confidence": 0.75}]
    assert base64.b64decode(picture["overlay"]) == b"png"
    assert one.requests("ExplainImage")[0].tag == "oak tree"


async def test_an_image_that_is_none_or_too_large_is_told_in_the_services_words():
    def refuse(request: Any) -> Any:
        raise InvalidImageFormat(file="image", problem="these bytes are no image")

    answers = {"GetModel": lambda request: MODEL, "AnalyzeImage": refuse}
    async with browser(answers, max_prediction_image_bytes=10) as one:
        await one.open("/studio/models/m/try")
        wrong = await one.send("/studio/models/m/analyze", b"text")
        large = await one.send("/studio/models/m/analyze", b"x" * 11)
    assert wrong.status_code == 400
    assert "these bytes are no image" in wrong.text
    assert large.status_code == 413


async def test_an_admin_sees_models_in_memory_quotas_and_the_audit_as_text():
    async with browser(ADMIN, roles=("admin",)) as one:
        page = (await one.open("/studio/admin")).text
    assert [request.order_by for request in one.requests("ListAuditEvents")] == ["time desc"]
    for words in ("acme", "3.0 MiB", "1,234", "DeleteModel", "PERMISSION_DENIED"):
        assert words in page
    assert "<script>alert" not in page


async def test_whoever_is_no_admin_is_not_shown_the_audit_and_it_is_not_asked_for():
    async with browser(ADMIN, roles=("trainer",)) as one:
        page = (await one.open("/studio/admin")).text
    assert not one.requests("ListAuditEvents")
    assert "acme" in page


async def test_a_part_that_fails_says_why_and_leaves_the_others():
    def refuse(request: Any) -> Any:
        raise AuditNotStored(setting="SIGHTLINE_AUDIT")

    async with browser(ADMIN | {"ListAuditEvents": refuse}, roles=("admin",)) as one:
        response = await one.open("/studio/admin")
    assert response.status_code == 200
    assert "acme" in response.text
    assert response.text.count('role="alert"') == 1
