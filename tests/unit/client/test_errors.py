"""One class per reason, with what to do about it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from services.kit import errors as served
from sightline.client import errors
from sightline.client.errors import Details, NotEnoughBudget, SightlineError, class_for
from sightline.client.grpc_errors import error_from
from tests.unit.cli.fakes import status

# Internal to the services, or errors that a service passes on without a class for them.
NEVER_RETURNED = {"LeaseLost", "RemoteError"}


def below(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from below(one)


def test_every_reason_that_a_service_returns_has_a_class_with_its_code() -> None:
    known = {kind.reason: kind.code for kind in below(SightlineError) if kind.reason}
    answered = {kind.reason: int(kind.code) for kind in below(served.SightlineError)}
    assert len(answered) > 30
    assert set(answered) - NEVER_RETURNED - {"internalServerError"} <= set(known)
    unlike = {reason for reason, code in answered.items() if reason in known and code != known[reason]}
    assert unlike <= {"unknown", "internalServerError"}, "these come with several codes"


def test_every_reason_has_only_one_class() -> None:
    reasons = [kind.reason for kind in below(SightlineError) if "reason" in vars(kind) and kind.reason]
    assert len(reasons) == len(set(reasons)) > 30


@pytest.mark.parametrize(
    ("code", "kind"),
    [(3, errors.InvalidArgument), (5, errors.NotFound), (14, errors.Unavailable), (16, errors.Unauthenticated)],
)
def test_an_error_with_an_unknown_reason_has_the_class_of_its_code(code: int, kind: type[SightlineError]) -> None:
    error = error_from(Status(code=code, message="Hm."))
    assert type(error) is kind
    assert (error.message, error.code) == ("Hm.", code)


def test_a_code_without_a_class_is_the_base_itself() -> None:
    assert type(error_from(Status(code=grpc.StatusCode.DATA_LOSS.value[0], message="Gone."))) is SightlineError


def test_too_small_a_budget_says_which_one_suffices() -> None:
    variables = {"minimum_seconds": "8", "suggested_seconds": "59.2"}
    answer = status(grpc.StatusCode.FAILED_PRECONDITION, "notEnoughBudget", "Not enough.", **variables)
    error = error_from(answer)
    assert isinstance(error, NotEnoughBudget)
    assert (error.minimum, error.suggested) == (timedelta(seconds=8), timedelta(seconds=59.2))
    assert 'budget="60s"' in error.fix
    assert not error.retryable


@pytest.mark.parametrize(
    ("reason", "metadata", "fix"),
    [
        ("datasetAnnotationsInvalid", {"file": "s3://sightline/uploads/u/coco.json"}, "fix the COCO file"),
        ("datasetAnnotationsInvalid", {"file": "datasets/pets"}, "fix what `sightline datasets findings pets` lists"),
        ("datasetEmpty", {"dataset": "datasets/pets"}, "fix what `sightline datasets findings pets` lists"),
        (
            "DatasetAlreadyExists",
            {"name": "datasets/pets"},
            "choose another name, add --new-version (new_version=True in Python), or `sightline datasets delete pets`",
        ),
        ("datasetNotReady", {"name": "datasets/pets", "state": "FAILED"}, "see `sightline datasets findings pets`"),
        ("datasetNotReady", {"name": "datasets/pets", "state": "VALIDATING"}, "wait until it is READY"),
        ("datasetInUse", {"users": "models/m and 2 others"}, "wait, or `sightline models cancel m`; `--force`"),
        ("datasetInUse", {"users": "batchPredictions/b"}, "wait, or `sightline batch cancel b`; `--force`"),
        ("datasetInUse", {"users": "models/m/evaluations/e, models/n"}, "wait, or delete what uses it; `--force`"),
        ("PermissionDenied", {"role": "trainer"}, "ask the operator of the services for a token with the role trainer"),
        ("PermissionDenied", {}, "ask the operator of the services for a token with the role ROLE"),
        (
            "QuotaExceeded",
            {"setting": "SIGHTLINE_MAX_BOXES"},
            "request less, or have the operator raise SIGHTLINE_MAX_",
        ),
        ("internalServerError", {"error_id": "e1"}, "the service's log"),
    ],
)
def test_the_fix_names_what_is_at_fault(reason: str, metadata: dict[str, str], fix: str) -> None:
    assert class_for(reason, 0)("Hm.", Details(variables=metadata)).fix.startswith(fix)


def test_an_error_without_an_id_mentions_none() -> None:
    assert errors.InternalError("Hm.", Details(variables={"seconds": "24"})).fix == ""


def test_a_retryable_error_says_when_to_retry() -> None:
    retry = RetryInfo(retry_delay=Duration(seconds=2))
    error = error_from(status(grpc.StatusCode.RESOURCE_EXHAUSTED, "QuotaExceeded", "Full.", retry))
    assert error.retryable
    assert error.details.retry_after == timedelta(seconds=2)
    assert error.fix == "repeat it in 2s"


def test_a_traceback_shows_message_and_fix() -> None:
    error = error_from(status(grpc.StatusCode.NOT_FOUND, "ModelNotFound", "models/m does not exist."))
    shown = "".join(traceback.format_exception(error))
    assert "ModelNotFound: models/m does not exist." in shown
    assert "fix: `sightline models list` prints the models that exist" in shown


def test_the_fields_at_fault_are_shown_unless_the_message_names_them() -> None:
    bad = BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field="page_size", description="is negative"),
            BadRequest.FieldViolation(field="name", description="Wrong."),
        ]
    )
    error = error_from(status(grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest", "Wrong.", bad))
    assert error.details.faults == ("page_size: is negative",)
