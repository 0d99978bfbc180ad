"""Trying a model on images: predictions, explanations, and the call to copy."""

import json
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from services.gateway.studio.images import KINDS
from services.gateway.studio.models import name_of, state_of
from services.gateway.studio.visit import Visit
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import GetModelRequest
from sightline.v1.prediction_pb2 import AnalyzeImageResponse, DetectedObject, Tag
from sightline.v1.prediction_service_pb2 import (
    AnalyzeImageRequest,
    ExplainImageRequest,
    SuggestImagesRequest,
    SuggestImagesResponse,
)

RESULTS, SUGGESTIONS = 300, 20


async def show(visit: Visit) -> Response:
    """The page on which images are dropped."""
    request = GetModelRequest(name=name_of(visit), view=Model.FULL)
    model = await visit.session.call(visit.session.services.models.GetModel, request)
    return await visit.page(
        "try.html",
        model=model,
        state=state_of(model),
        is_detector=model.training_parameters.model_kind == TrainingParameters.GENERIC_DETECTOR,
        thresholds=dict(model.suggested_thresholds),
        base=str(visit.request.base_url).rstrip("/"),
        tls=bool(visit.site.settings.tls_ca),
        predictor=visit.site.settings.predictor_address,
        scripts=visit.site.text.below("js."),
    )


async def analyze(visit: Visit) -> Response:
    """What the model predicts for the image in the body, down to the lowest score: the page draws the line."""
    image = await visit.bytes(visit.site.settings.max_prediction_image_bytes)
    request = AnalyzeImageRequest(model_name=name_of(visit), image=image, score_threshold=0, max_results=RESULTS)
    answer = await visit.session.call(visit.session.services.predictions.AnalyzeImage, request)
    return JSONResponse(_shown(answer))


async def explain(visit: Visit) -> Response:
    """Which parts of the image in the body support a category."""
    image = await visit.bytes(visit.site.settings.max_prediction_image_bytes)
    request = ExplainImageRequest(model_name=name_of(visit), image=image, tag=visit.query("tag"))
    answer = await visit.session.call(visit.session.services.predictions.ExplainImage, request)
    overlay = b64encode(answer.overlay_png).decode()
    return JSONResponse({"name": answer.tag.name, "confidence": answer.tag.confidence, "overlay": overlay})


async def suggestions(visit: Visit) -> Response:
    """Lines of JSON, each with an image that the predictor kept because the model was unsure of it, and its answer."""
    request = SuggestImagesRequest(model_name=name_of(visit), max_images=SUGGESTIONS)
    found = visit.session.stream(visit.session.services.predictions.SuggestImages, request)
    first = await anext(found, None)  # a predictor that keeps none is an error like any other, not a stream
    return StreamingResponse(_lines(first, found), media_type="application/x-ndjson")


async def _lines(
    kept: SuggestImagesResponse | None, found: AsyncGenerator[SuggestImagesResponse]
) -> AsyncIterator[str]:
    async with aclosing(found):
        while kept is not None:
            yield json.dumps(_kept(kept)) + "\n"
            kept = await anext(found, None)


def _kept(kept: SuggestImagesResponse) -> dict[str, Any]:
    kind = next((name for start, name in KINDS if kept.image.startswith(start)), "application/octet-stream")
    return {
        "name": f"{kept.image_id}.{kept.extension}",
        "type": kind,
        "image": b64encode(kept.image).decode(),
        "answer": _shown(kept.prediction),
    }


def _shown(answer: AnalyzeImageResponse) -> dict[str, Any]:
    result = answer.custom_model_result
    objects = [_object(one) for one in result.objects_result.values]
    return {
        "width": answer.metadata.width,
        "height": answer.metadata.height,
        "results": objects or [_tag(one) for one in result.tags_result.values],
    }


def _tag(tag: Tag) -> dict[str, Any]:
    return {"name": tag.name, "confidence": tag.confidence}


def _object(found: DetectedObject) -> dict[str, Any]:
    box = found.bounding_box
    return _tag(found.tags[0]) | {"box": [box.x, box.y, box.w, box.h]}
