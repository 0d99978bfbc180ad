"""The operations of this API."""

from services.gateway.custom_vision.errors import rendered
from services.gateway.custom_vision.iterations import Published
from services.gateway.custom_vision.predictions import Predictions
from services.gateway.operations import Api, Operation

_IMAGE = ("multipart/form-data", "application/octet-stream")
_JSON = ("application/json",)
_PREDICTED = (200, 400, 401, 403, 404, 413, 429)


def custom_vision() -> Api:
    """The API, with its own memory of published names."""
    return Api("Custom Vision", "/customvision", (*_prediction(Predictions(Published())),), rendered)


def _prediction(predictions: Predictions) -> list[Operation]:
    found: list[Operation] = []
    for verb, summary in (("classify", "Classify an image"), ("detect", "Detect objects in an image")):
        handler = predictions.handler(detects=verb == "detect")
        for source, body in (("image", _IMAGE), ("url", _JSON)):
            path = f"/{{version}}/prediction/{{project}}/{verb}/iterations/{{name}}/{source}"
            found += [
                Operation("POST", path + end, handler, summary, _PREDICTED, ("application",), body)
                for end in ("", "/nostore")
            ]
    return found
