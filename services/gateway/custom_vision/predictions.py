"""Predictions of a published iteration."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from services.gateway.custom_vision import iterations
from services.gateway.custom_vision.errors import BadRequest
from services.gateway.custom_vision.iterations import Published
from services.gateway.custom_vision.tag_ids import id_in
from services.gateway.custom_vision.times import text_of
from services.gateway.custom_vision.versions import PREDICTION, check_version
from services.gateway.exchange import Exchange
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.prediction_pb2 import AnalyzeImageResponse, BoundingBox, ImageMetadata, Tag
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest

LEAST_SCORE = 0.01  # of an object; clients of this API choose their own threshold above it


class Predictions:
    """The handlers of predictions."""

    def __init__(self, published: Published) -> None:
        self._published = published

    def handler(self, *, detects: bool) -> Callable[[Exchange], Awaitable[Response]]:
        """Answers with tags, or with objects, of an image in the body or at a url of the own store."""

        async def predict(exchange: Exchange) -> Response:
            check_version(exchange, PREDICTION)
            project, name = exchange.path("project"), exchange.path("name")
            request = await exchange.image_request()
            model = await self._published.model(exchange.session, project, name)
            found = await _predicted(exchange, request, model, detects=detects)
            if found.custom_model_result.HasField("objects_result") != detects:
                problem = f"this model answers {'classify' if detects else 'detect'}"
                raise BadRequest("BadRequestNotSupported", field="path", problem=problem)
            return JSONResponse(_answer(project, model, found))

        return predict


async def quick_test(exchange: Exchange) -> Response:
    """A prediction of an iteration that need not be published: by default, of the latest that is trained."""
    check_version(exchange)
    project, iteration = exchange.path("project"), exchange.query("iterationId")
    request = await exchange.image_request()
    if iteration:
        model = await iterations.get(exchange.session, project, iteration)
    else:
        model = await iterations.latest_trained(exchange.session, project)
    if not model or not iterations.is_trained(model):
        raise BadRequest("BadRequestIterationIsNotTrained", field="iterationId", problem="no such iteration is trained")
    detects = model.training_parameters.model_kind == TrainingParameters.GENERIC_DETECTOR
    found = await _predicted(exchange, request, model, detects=detects)
    return JSONResponse(_answer(project, model, found))


async def _predicted(
    exchange: Exchange, request: AnalyzeImageRequest, model: Model, *, detects: bool
) -> AnalyzeImageResponse:
    request.model_name = model.name
    if detects:
        request.score_threshold = LEAST_SCORE
    return await exchange.session.call(exchange.session.services.predictions.AnalyzeImage, request)


def _answer(project: str, model: Model, found: AnalyzeImageResponse) -> dict[str, Any]:
    result, kept = found.custom_model_result, model.custom_properties
    tags = [_prediction(project, tag, kept) for tag in result.tags_result.values]
    objects = [
        _prediction(project, tag, kept) | {"boundingBox": _box(one.bounding_box, found.metadata)}
        for one in result.objects_result.values
        for tag in one.tags
    ]
    return {
        "id": str(uuid.uuid4()),
        "project": project,
        "iteration": model.name.removeprefix("models/"),
        "created": text_of(datetime.now(UTC)),
        "predictions": tags or objects,
    }


def _prediction(project: str, tag: Tag, kept: Mapping[str, str]) -> dict[str, Any]:
    found = {"tagId": id_in(project, tag.name, kept), "tagName": tag.name, "tagType": "Regular"}
    return {"probability": tag.confidence, **found}


def _box(box: BoundingBox, size: ImageMetadata) -> dict[str, float]:
    """As fractions of the image."""
    width, height = size.width or 1, size.height or 1
    return {"left": box.x / width, "top": box.y / height, "width": box.w / width, "height": box.h / height}
