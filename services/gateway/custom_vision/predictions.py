"""Predictions of a published iteration."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from services.gateway.custom_vision.errors import BadRequest
from services.gateway.custom_vision.iterations import Published
from services.gateway.custom_vision.times import text_of
from services.gateway.exchange import Exchange
from sightline.v1.prediction_pb2 import AnalyzeImageResponse, BoundingBox, ImageMetadata
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest

VERSIONS = ("v3.0", "v3.1")
SPARE_BYTES = 4096  # for the frame of a form around an image
LEAST_SCORE = 0.01  # of an object; clients of this API choose their own threshold above it


def tag_id(project: str, name: str) -> str:
    """The id of a tag: of its project and name, so that every replica and every model has the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"sightline:{project}/tags/{name}"))


class Predictions:
    """The handlers of predictions."""

    def __init__(self, published: Published) -> None:
        self._published = published

    def handler(self, *, detects: bool) -> Callable[[Exchange], Awaitable[Response]]:
        """Answers with tags, or with objects, of an image in the body or at a url of the own store."""

        async def predict(exchange: Exchange) -> Response:
            check_version(exchange, VERSIONS)
            project, name = exchange.path("project"), exchange.path("name")
            request = await _image(exchange)
            model_id = await self._published.model_id(exchange.session, project, name)
            request.model_name = f"models/{model_id}"
            if detects:
                request.score_threshold = LEAST_SCORE
            found = await exchange.session.call(exchange.session.services.predictions.AnalyzeImage, request)
            if found.custom_model_result.HasField("objects_result") != detects:
                problem = f"this model answers {'classify' if detects else 'detect'}"
                raise BadRequest("BadRequestNotSupported", field="path", problem=problem)
            return JSONResponse(_answer(project, model_id, found))

        return predict


def check_version(exchange: Exchange, known: tuple[str, ...]) -> None:
    """BadRequest for a version of this API that is not served."""
    if (version := exchange.path("version")) not in known:
        raise BadRequest(field="version", problem=f"{version[:40]} is not served; use one of {', '.join(known)}")


async def _image(exchange: Exchange) -> AnalyzeImageRequest:
    media = await exchange.media(exchange.settings.max_prediction_image_bytes + SPARE_BYTES)
    if media.json is None:
        return AnalyzeImageRequest(image=media.image)
    return AnalyzeImageRequest(uri=exchange.settings.blob_uris.to_store(media.json.required_text("url")))


def _answer(project: str, model_id: str, found: AnalyzeImageResponse) -> dict[str, Any]:
    result = found.custom_model_result
    tags = [_prediction(project, tag.name, tag.confidence) for tag in result.tags_result.values]
    objects = [
        _prediction(project, tag.name, tag.confidence) | {"boundingBox": _box(one.bounding_box, found.metadata)}
        for one in result.objects_result.values
        for tag in one.tags
    ]
    return {
        "id": str(uuid.uuid4()),
        "project": project,
        "iteration": model_id,
        "created": text_of(datetime.now(UTC)),
        "predictions": tags or objects,
    }


def _prediction(project: str, name: str, confidence: float) -> dict[str, Any]:
    return {"probability": confidence, "tagId": tag_id(project, name), "tagName": name, "tagType": "Regular"}


def _box(box: BoundingBox, size: ImageMetadata) -> dict[str, float]:
    """As fractions of the image."""
    width, height = size.width or 1, size.height or 1
    return {"left": box.x / width, "top": box.y / height, "width": box.w / width, "height": box.h / height}
