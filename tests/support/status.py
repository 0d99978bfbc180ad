"""Reads failures from statuses."""

from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from services.kit.errors import DOMAIN, Failure


def failure_of(status: Status) -> Failure:
    """The failure in a status; its reason is empty if the status has no ErrorInfo of ours."""
    for detail in status.details:
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return Failure(status.code, info.reason, status.message, dict(info.metadata))
    return Failure(status.code, "", status.message)
