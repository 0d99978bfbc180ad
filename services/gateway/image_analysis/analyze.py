"""Predictions: `imageanalysis:analyze`, with a custom model or with the models configured for features."""

from typing import Any

from starlette.responses import JSONResponse, Response

from services.gateway.exchange import Exchange
from services.gateway.image_analysis import wire
from services.gateway.image_analysis.errors import BadArgument, NotSupportedVisualFeature
from services.gateway.image_analysis.versions import ANALYSIS, FIRST, version_of
from sightline.v1.prediction_pb2 import AnalyzeImageResponse, DetectedObject, Tag
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest


async def analyze(exchange: Exchange) -> Response:
    """Predicts. `model-name` wins over `features`, which clients send in any case."""
    version = version_of(exchange, ANALYSIS)
    model = exchange.query("model-name")
    features = [] if model else _features(exchange)
    request = await exchange.image_request()
    if model:
        found = await _predict(exchange, request, model)
        return JSONResponse(_of_first_version(found) if version == FIRST else _with_custom_result(found))
    answers = {feature: await _predict(exchange, request, name) for feature, name in features}
    return JSONResponse(_with_features(answers))


def _features(exchange: Exchange) -> list[tuple[str, str]]:
    """The features asked for, each with the model that answers it."""
    settings = exchange.settings
    models = {"tags": settings.default_classifier, "objects": settings.default_detector}
    asked = list(dict.fromkeys(filter(None, (word.strip() for word in exchange.query("features").lower().split(",")))))
    if not asked:
        raise BadArgument(field="model-name", problem="name a model, or features that a model is configured for")
    for feature in asked:
        if not models.get(feature):
            served = ", ".join(name for name, model in models.items() if model) or "none"
            problem = f"no model answers {feature[:40]!r} here (configured: {served}); name a model by model-name"
            raise NotSupportedVisualFeature(field="features", problem=problem)
    return [(feature, models[feature]) for feature in asked]


async def _predict(exchange: Exchange, image: AnalyzeImageRequest, model_id: str) -> AnalyzeImageResponse:
    request = AnalyzeImageRequest()
    request.CopyFrom(image)
    request.model_name = wire.model_name(model_id)
    return await exchange.session.call(exchange.session.services.predictions.AnalyzeImage, request)


def _with_custom_result(found: AnalyzeImageResponse) -> dict[str, Any]:
    return _head(found) | {"customModelResult": _results(found)}


def _with_features(answers: dict[str, AnalyzeImageResponse]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for found in answers.values():
        merged = _head(found) | merged | _results(found)
    return merged


def _head(found: AnalyzeImageResponse) -> dict[str, Any]:
    size = {"width": found.metadata.width, "height": found.metadata.height}
    return {"modelVersion": found.model_version, "metadata": size}


def _results(found: AnalyzeImageResponse) -> dict[str, Any]:
    """The result of the model's kind, with `values` even if there are none."""
    result = found.custom_model_result
    if result.HasField("objects_result"):
        return {"objectsResult": {"values": [_object(one) for one in result.objects_result.values]}}
    return {"tagsResult": {"values": [_tag(one) for one in result.tags_result.values]}}


def _tag(tag: Tag) -> dict[str, Any]:
    return {"name": tag.name, "confidence": tag.confidence}


def _object(one: DetectedObject) -> dict[str, Any]:
    box = one.bounding_box
    return {
        "id": one.id,
        "boundingBox": {"x": box.x, "y": box.y, "w": box.w, "h": box.h},
        "tags": [_tag(tag) for tag in one.tags],
    }


def _of_first_version(found: AnalyzeImageResponse) -> dict[str, Any]:
    """The answer of the first version of this API."""
    result = found.custom_model_result
    size = _head(found)["metadata"]
    tags = [{"confidence": tag.confidence, "label": tag.name} for tag in result.tags_result.values]
    objects = [_object(one) for one in result.objects_result.values]
    custom = {"classifications": tags, "objects": objects, "imageMetadata": size}
    return {"kind": "imageAnalysisResult", "metadata": size, "customModelResult": custom}
