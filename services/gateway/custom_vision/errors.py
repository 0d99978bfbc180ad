"""How this API reports what went wrong: a code and a message."""

from starlette.responses import JSONResponse, Response

from services.gateway.errors import Problem, Refusal
from sightline.text import fault_of_text

MAX_NAME = 256  # characters

CODES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "NotFound",
    408: "ErrorUnknown",
    409: "Conflict",
    412: "Conflict",
    413: "BadRequestImageSizeBytes",
    429: "TooManyRequests",
    501: "BadRequestNotSupported",
}
# Our reasons for which this API has a code of its own.
BY_REASON = {
    "InvalidImageFormat": "BadRequestImageFormat",
    "InvalidImageSize": "BadRequestImageSizeBytes",
    "ModelNotFound": "NotFoundIteration",
    "ModelNotReady": "BadRequestIterationIsNotTrained",
    "ModelAlreadyExists": "Conflict",
    "UploadNotFound": "NotFoundProject",
    "datasetNotFound": "NotFoundProject",
    "notEnoughBudget": "BadRequestTrainingBudget",
}


class BadRequest(Refusal):
    """A request that this API refuses; `code` is its code for that."""

    def __init__(self, code: str = "BadRequest", *, field: str, problem: str) -> None:
        super().__init__(Problem(400, code, f"{field}: {problem}", field))


def check_name(name: str, code: str, field: str = "name") -> str:
    """The name itself; BadRequest with the code unless people can read it."""
    if not 0 < len(name) <= MAX_NAME:
        raise BadRequest(code, field=field, problem=f"a name has 1 to {MAX_NAME} characters")
    if fault := fault_of_text(name):
        raise BadRequest(code, field=field, problem=f"it {fault}; remove it")
    return name


class Missing(Refusal):
    """Something that a project does not have; `code` is this API's code for that."""

    def __init__(self, code: str, *, what: str, name: str) -> None:
        super().__init__(Problem(404, code, f"There is no {what} {name[:100]}."))


def rendered(problem: Problem) -> Response:
    """The problem as a response."""
    own = problem.reason if problem.reason.startswith(("BadRequest", "NotFound", "Conflict")) else ""
    code = own or BY_REASON.get(problem.reason) or CODES.get(problem.status, "ErrorUnknown")
    return JSONResponse({"code": code, "message": problem.message}, problem.status, problem.headers)
