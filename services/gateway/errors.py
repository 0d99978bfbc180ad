"""Failed calls as HTTP: which status each has, and what of it every API reports."""

from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from services.kit.errors import Code, SightlineError
from sightline.client.transport.channel import describe, status_of

STATUSES: dict[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 412,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.CANCELLED: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
BY_REASON = {"MessageTooLarge": 413, "RequestTimedOut": 408}
RETRIED = (429, 503, 504)  # clients repeat these by themselves


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request failed. `reason` and `message` are the service's own."""

    status: int
    reason: str
    message: str
    target: str = ""
    retry_after_seconds: int | None = None
    fields: dict[str, str] = field(default_factory=dict[str, str])  # what is wrong with each field of the request

    @property
    def headers(self) -> dict[str, str]:
        """When to ask again, if that helps; a connection whose body was not read cannot be used again."""
        found = {} if self.retry_after_seconds is None else {"retry-after": str(self.retry_after_seconds)}
        return found | ({"connection": "close"} if self.status in (401, 408, 413, 429, 503) else {})


class Refusal(Exception):
    """A request that the gateway itself refuses, in terms of HTTP or of one of its APIs; no rpc fails like this."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def no_path(path: str) -> Problem:
    """There is no such path."""
    return Problem(404, "NotFound", f"{path[:200]} is not a path of this server; /openapi.json lists them.")


def no_method(path: str, method: str, allowed: str) -> Problem:
    """The path exists, but not with this method."""
    return Problem(405, "MethodNotAllowed", f"{path[:200]} takes {allowed}, not {method}.")


def problem_of(error: Refusal | SightlineError | grpc.aio.AioRpcError) -> Problem:
    """What a failed call says over HTTP."""
    if isinstance(error, Refusal):
        return error.problem
    if isinstance(error, SightlineError):
        after = error.retry_after if error.retry else None
        return _problem(Code(error.code), error.reason, error.message, after, error.metadata, {})
    rich = describe(error)
    code, after = Code(error.code().value[0]), _retry_after(error)
    if code is Code.UNAVAILABLE and not rich.reason:  # gRPC's own words name addresses
        return Problem(503, "ServiceUnavailable", "A service of the suite does not answer; repeat the request.", "", 1)
    return _problem(code, rich.reason or "internalServerError", rich.message, after, rich.metadata, rich.fields)


def _problem(
    code: Code, reason: str, message: str, after: timedelta | None, metadata: dict[str, str], fields: dict[str, str]
) -> Problem:
    status = BY_REASON.get(reason) or STATUSES.get(code, 500)
    if status == 429 and after is None:
        status = 400  # a quota, which repeating does not help
    seconds = None if after is None or status not in RETRIED else max(1, round(after.total_seconds()))
    target = next(iter(fields), "") or metadata.get("field", "")
    return Problem(status, reason, message, target, seconds, fields)


def _retry_after(error: grpc.aio.AioRpcError) -> timedelta | None:
    for detail in status_of(error).details:
        info = RetryInfo()
        if detail.Unpack(info):
            delay: Duration = info.retry_delay
            return delay.ToTimedelta()
    return None
