"""How this API reports what went wrong: in responses, and in models and evaluations that failed."""

from collections.abc import Collection
from typing import Any

from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from starlette.responses import JSONResponse, Response

from services.gateway.errors import Problem, Refusal

ERROR_CODE = "x-ms-error-code"
# Our reasons for which this API has a code of its own.
CODES = {"Unauthenticated": "PermissionDenied", "ProjectDenied": "PermissionDenied", "InvalidUri": "InvalidRequest"}
# What this API calls the fields of our requests.
FIELDS = {
    "dataset_id": "name",
    "model_id": "name",
    "evaluation_id": "name",
    "dataset.annotation_file_uris": "annotationFileUris",
    "dataset.annotation_kind": "annotationKind",
    "dataset.custom_properties": "customProperties",
    "model.training_parameters.training_dataset": "trainingParameters.trainingDatasetName",
    "model.training_parameters.time_budget": "trainingParameters.timeBudgetInHours",
    "model.evaluation_parameters.test_dataset": "evaluationParameters.testDatasetName",
    "evaluation.test_dataset": "evaluationParameters.testDatasetName",
    "model_name": "model-name",
}
TRAINING_CODES = frozenset({"diverged", "notEnoughBudget", "datasetCorrupt", "datasetNotFound"})
EVALUATION_CODES = frozenset({"modelNotFound", "datasetNotFound", "datasetAnnotationsInvalid", "datasetEmpty"})


class BadArgument(Refusal):
    """A parameter that this API refuses."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(Problem(400, "BadArgument", f"{field}: {problem}", field))


class NotSupportedVisualFeature(Refusal):
    """A feature that no model was configured for."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(Problem(400, "NotSupportedVisualFeature", f"{field}: {problem}", field))


def rendered(problem: Problem) -> Response:
    """The problem as a response. `error` has only the keys that this API's clients know."""
    inner = problem.reason if problem.reason in ("BadArgument", "NotSupportedVisualFeature") else ""
    code = "InvalidRequest" if inner else CODES.get(problem.reason, problem.reason)
    message, target = problem.message, FIELDS.get(problem.target, problem.target)
    if message.startswith(f"{problem.target}: "):
        message = target + message.removeprefix(problem.target)
    error: dict[str, Any] = {"code": code, "message": message}
    if target:
        error["target"] = target
    if inner:
        error["details"] = [{"code": inner, "message": message}]
    headers = problem.headers | {ERROR_CODE: code}
    return JSONResponse({"error": error}, problem.status, headers)


def failure(status: Status, known: Collection[str], otherwise: str) -> dict[str, Any]:
    """A stored failure. A reason that this API does not have is `otherwise`, with the reason in the details."""
    reason = next((info.reason for info in map(_info, status.details) if info.reason), otherwise)
    if reason in known:
        return {"code": reason, "message": status.message}
    details = [] if reason == otherwise else [{"code": reason, "message": status.message}]
    return {"code": otherwise, "message": status.message, **({"details": details} if details else {})}


def _info(packed: Any) -> ErrorInfo:
    info = ErrorInfo()
    packed.Unpack(info)
    return info
