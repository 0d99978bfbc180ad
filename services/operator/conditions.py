"""What errors of the suite mean for a resource."""

from google.protobuf import json_format

from services.operator.resource import ACCEPTED, READY, Condition
from sightline.client.errors import (
    AlreadyExists,
    Conflict,
    DatasetNotReady,
    DeadlineExceeded,
    InvalidArgument,
    ModelNotReady,
    NotFound,
    SightlineError,
)

SOON, LATER = 5.0, 60.0  # seconds until a step that failed is repeated
WAITED_FOR = DatasetNotReady, ModelNotReady, NotFound


def condition_of(error: Exception) -> tuple[Condition, float]:
    """What an error means for the resource, and after how long to try again."""
    if isinstance(error, json_format.ParseError):
        return Condition(ACCEPTED, "False", "InvalidSpec", f"{error}; correct the spec."), LATER
    assert isinstance(error, SightlineError), error
    message, reason = message_of(error), reason_of(error)
    if isinstance(error, AlreadyExists):
        message += " It was not created by this resource: choose another name, or delete it first."
        return Condition(ACCEPTED, "False", reason, message), LATER
    if isinstance(error, InvalidArgument):
        return Condition(ACCEPTED, "False", reason, message), LATER
    if is_away(error):
        return Condition(READY, "Unknown", reason, message), SOON
    if isinstance(error, (Conflict, *WAITED_FOR)):
        return Condition(READY, "False", reason, message), SOON
    return Condition(READY, "False", reason, message), LATER


def is_away(error: SightlineError) -> bool:
    """Whether nothing is known, because the suite did not answer."""
    return error.retryable or isinstance(error, DeadlineExceeded)


def message_of(error: SightlineError) -> str:
    """What is wrong, and what to do about it."""
    return error.message + (f" Fix: {error.fix}." if error.fix else "")


def reason_of(error: SightlineError) -> str:
    """The reason in the form of conditions' reasons: `datasetNotReady` as `DatasetNotReady`."""
    reason = error.reason or type(error).__name__
    return reason[0].upper() + reason[1:]
