"""The operations of this API."""

from services.gateway.image_analysis import datasets, evaluations, models
from services.gateway.image_analysis.analyze import analyze
from services.gateway.image_analysis.errors import rendered
from services.gateway.operations import Api, Operation

_VERSION, _PAGE = ("api-version",), ("api-version", "skip", "top")
_JSON = ("application/json", "application/merge-patch+json", "application/json-patch+json")
_IMAGE = ("application/octet-stream", "application/json", "image/*", "multipart/form-data")
_READ, _REFUSED = (200, 400, 401, 403, 404), (400, 401, 403)
_DATASET, _MODEL, _EVALUATION = "/datasets/{name}", "/models/{name}", "/models/{model}/evaluations/{name}"

OPERATIONS = (
    Operation("PUT", _DATASET, datasets.put, "Register a dataset", (201, *_REFUSED, 409), _VERSION, _JSON),
    Operation("GET", _DATASET, datasets.get, "Get a dataset", _READ, _VERSION),
    Operation("PATCH", _DATASET, datasets.patch, "Change a dataset", (*_READ, 409, 412), _VERSION, _JSON),
    Operation("DELETE", _DATASET, datasets.delete, "Delete a dataset", (204, *_REFUSED, 404, 412), _VERSION),
    Operation("GET", "/datasets", datasets.list_all, "List datasets", (200, *_REFUSED), _PAGE),
    Operation("PUT", _MODEL, models.put, "Create and train a model", (201, *_REFUSED, 404, 409), _VERSION, _JSON),
    Operation("GET", _MODEL, models.get, "Get a model", _READ, _VERSION),
    Operation("DELETE", _MODEL, models.delete, "Delete a model", (204, *_REFUSED, 404, 412), _VERSION),
    Operation("GET", "/models", models.list_all, "List models", (200, *_REFUSED), _PAGE),
    Operation("POST", f"{_MODEL}:cancel", models.cancel, "Cancel a training", (202, *_REFUSED, 404), _VERSION),
    Operation("PUT", _EVALUATION, evaluations.put, "Evaluate a model", (201, *_REFUSED, 404, 409), _VERSION, _JSON),
    Operation("GET", _EVALUATION, evaluations.get, "Get an evaluation", _READ, _VERSION),
    Operation("DELETE", _EVALUATION, evaluations.delete, "Delete an evaluation", (204, *_REFUSED, 404), _VERSION),
    Operation("GET", "/models/{model}/evaluations", evaluations.list_all, "List evaluations", _READ, _PAGE),
    Operation(
        "POST",
        "/imageanalysis:analyze",
        analyze,
        "Predict with a model",
        (*_READ, 413, 429),
        ("api-version", "model-name", "features"),
        _IMAGE,
    ),
)
IMAGE_ANALYSIS = Api("Image Analysis", "/computervision", OPERATIONS, rendered)
