"""The tree of errors, each with its gRPC code, its reason and the variables of its message.

    SightlineError
    ├── InvalidArgument (INVALID_ARGUMENT)
    │   ├── InvalidRequest (RecordTooLarge), InvalidName, InvalidPageToken, UnreadableUri (UnwritableUri)
    │   ├── DatasetInvalidAnnotationUri, IncorrectModelKind, DatasetAnnotationsInvalid, DatasetEmpty
    │   ├── CategoriesUnknown
    │   └── InvalidImage: InvalidImageFormat, InvalidImageSize
    ├── AlreadyExists (ALREADY_EXISTS): DatasetAlreadyExists, ModelAlreadyExists, EvaluationAlreadyExists, RecordExists,
    │   UploadAlreadyExists, FileAlreadyExists, BatchPredictionAlreadyExists
    ├── NotFound (NOT_FOUND): DatasetNotFound, ModelNotFound (ModelAliasNotFound), ModelVersionNotFound,
    │   TrialNotFound, EvaluationNotFound, EstimateNotFound, ExportNotFound, RecordNotFound, BlobNotFound,
    │   UploadNotFound, BatchPredictionNotFound (ResultFileNotFound)
    ├── FailedPrecondition (FAILED_PRECONDITION)
    │   ├── NotEnoughBudget, ModelNotReady, DatasetNotReady, DatasetInUse, ModelInUse, NothingToRollBack, WrongState,
    │   │   StoreRefused, BlobDamaged
    │   ├── CoverageUnavailable, ExportUnavailable, AuditNotStored, FeedbackNotKept, BatchPredictionsOff
    │   └── Diverged, DatasetCorrupt, DatasetChanged, OutOfMemory, PoisonWork
    ├── Conflict (ABORTED): EtagMismatch, LeaseLost
    ├── QuotaExceeded (RESOURCE_EXHAUSTED): ProjectQuotaExceeded, QueueFull, TooBusy,
    │   Throttled (TooManyEstimates), MessageTooLarge
    ├── DeadlineExceeded (DEADLINE_EXCEEDED): RequestTimedOut
    ├── Unauthenticated (UNAUTHENTICATED), PermissionDenied, ProjectDenied (PERMISSION_DENIED)
    ├── NotServedYet, UnknownMethod (UNIMPLEMENTED)
    ├── Unavailable (UNAVAILABLE): Draining, Overloaded, StreamExpired (StreamIdle), EstimateTimedOut,
    │   ExportTimedOut
    ├── Internal (INTERNAL): UnknownTrainingError, BundleUnusable, RecordUnusable
    └── RemoteError (any code): an error of another service that this tree has no class for

They are translated in two places only: `infra.server` on the way out and `infra.channel` on the way in.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import ClassVar, Self

from services.kit.masking import without_credentials
from sightline.plurals import fill

DOMAIN = "sightline"
MAX_VARIABLE = 4096  # characters of a variable of a message: callers' text ends up in errors, records and logs


class Code(IntEnum):
    """The gRPC status codes of failed calls, with gRPC's numbers."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def shortened(text: str) -> str:
    """The text, with an ellipsis for what is beyond MAX_VARIABLE."""
    return text if len(text) <= MAX_VARIABLE else f"{text[: MAX_VARIABLE - 1]}…"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as stored in a record: the contents of a `google.rpc.Status`."""

    code: int
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict[str, str])


class SightlineError(Exception):
    """The base of all our errors.

    A subclass's `template`, filled by `plurals.fill`, is its message. Its variables are passed by name and become
    metadata, so that programs find in the metadata whatever people read in the message. What uris have as passwords and
    parameters is masked in them. `retry` says that the same call may succeed later, unchanged.
    """

    code: Code = Code.INTERNAL
    reason: str = "internalServerError"
    template: ClassVar[str] = "{message}"
    retry: bool = False
    retry_after: ClassVar[timedelta] = timedelta(seconds=1)  # if a retry may help
    field_name: ClassVar[str] = ""  # the request's field at fault, if it is always the same
    resend: ClassVar[bool] = True  # if a retry may help: also one that gRPC makes by itself, within the call's deadline
    resource_type: ClassVar[str] = ""  # "dataset", "model", ... if the error is about one resource

    def __init__(self, **variables: object) -> None:
        self.metadata = {name: shortened(without_credentials(str(value))) for name, value in variables.items()}
        self.message = fill(self.template, self.metadata)
        super().__init__(self.message)

    @classmethod
    def restore(cls, failure: Failure) -> Self:
        """An error of this class with the failure's message and variables, whatever the template says."""
        error = cls.__new__(cls)
        Exception.__init__(error, failure.message)
        error.message, error.metadata = failure.message, dict(failure.metadata)
        return error

    def failure(self) -> Failure:
        """The error as a value for a record."""
        return Failure(int(self.code), self.reason, self.message, self.metadata)


# The request is wrong and must be changed.


class InvalidArgument(SightlineError):
    """The request can never succeed unchanged."""

    code = Code.INVALID_ARGUMENT


class InvalidRequest(InvalidArgument):
    """A field is missing, malformed or contradicts another; `field` names it."""

    reason = "InvalidRequest"
    template = "{field}: {problem}"


class RecordTooLarge(InvalidRequest):
    """What was to be written does not fit into a record, and never will."""

    template = "The record of {field} would have {size:byte|bytes}, but has room for {limit}: shorten names and texts."


class InvalidName(InvalidArgument):
    """A resource name or id is malformed."""

    reason = "InvalidName"
    template = "{field}: {value!r} is not a valid name; expected {expected}."


class InvalidPageToken(InvalidArgument):
    """A page token belongs to another list, or to other parameters."""

    reason = "InvalidPageToken"
    template = "page_token: {token!r} does not belong to this list; ask again without a token."
    field_name = "page_token"


class UnreadableUri(InvalidArgument):
    """A uri that is not `s3://bucket/key` inside the store."""

    reason = "InvalidUri"
    template = (
        "{field}: {uri!r}: {problem}. Nothing outside the store is read: upload the file, then name it as"
        " s3://{bucket}/KEY."
    )


class UnwritableUri(UnreadableUri):
    """A uri below which callers may not have results written."""

    template = "{field}: {uri!r}: {problem}. Leave it out, or ask the operator for SIGHTLINE_OPEN_OUTPUT_PREFIXES."


class DatasetInvalidAnnotationUri(InvalidArgument):
    """An annotation file's uri does not lead to an object in the store."""

    reason = "DatasetInvalidAnnotationUri"
    template = "dataset.annotation_file_uris: {uri!r}: {problem}"
    field_name = "dataset.annotation_file_uris"


class DatasetAnnotationsInvalid(InvalidArgument):
    """A COCO file cannot be used; the message says which file, where in it, and what to change."""

    reason = "datasetAnnotationsInvalid"
    template = "{file}: {problem}"


class DatasetEmpty(InvalidArgument):
    """A dataset has no usable image."""

    reason = "datasetEmpty"
    template = "{dataset} has no usable image{detail}."


class CategoriesUnknown(InvalidArgument):
    """Most of a test dataset has categories that the model does not know; metrics of the rest would be misleading."""

    reason = "categoriesUnknown"
    template = (
        "{unknown} of the {total} {what} of {dataset}, more than half, have a category that the model does not know. "
        "Rename these categories in the annotation file as the model has them, and register it again: {categories}. "
        "The model knows {known}."
    )


class IncorrectModelKind(InvalidArgument):
    """A model and a dataset of different kinds were combined."""

    reason = "incorrectModelKind"
    template = "{model_kind} cannot use {dataset}, whose annotations are {annotation_kind}."


class InvalidImage(InvalidArgument):
    """An image that cannot be decoded."""

    reason = "InvalidImageFormat"
    template = "{file}: {problem}"


class InvalidImageFormat(InvalidImage):
    """Not one of the eight formats, or damaged."""


class InvalidImageSize(InvalidImage):
    """Too many bytes, or a side out of range."""

    reason = "InvalidImageSize"


# About a resource.


class AlreadyExists(SightlineError):
    """The id is in use."""

    code = Code.ALREADY_EXISTS
    reason = "AlreadyExists"
    template = "{name} exists already; choose another id."


class DatasetAlreadyExists(AlreadyExists):
    """A dataset of this id exists."""

    reason = "DatasetAlreadyExists"
    template = "{name} exists already; choose another id, or delete it first."
    resource_type = "dataset"


class ModelAlreadyExists(AlreadyExists):
    """A model of this id exists."""

    reason = "ModelAlreadyExists"
    template = "{name} exists already; choose another id, or delete it first."
    resource_type = "model"


class EvaluationAlreadyExists(AlreadyExists):
    """An evaluation of this id exists."""

    reason = "EvaluationAlreadyExists"
    template = "{name} exists already; choose another id, or delete it first."
    resource_type = "evaluation"


class BatchPredictionAlreadyExists(AlreadyExists):
    """The id of a new batch prediction is in use."""

    resource_type = "batchPrediction"


class UploadAlreadyExists(AlreadyExists):
    """The id is that of an upload which the caller may not add to, or remove."""

    reason = "UploadAlreadyExists"
    template = "{name} {problem}; choose another upload id."
    resource_type = "upload"


class FileAlreadyExists(AlreadyExists):
    """The upload has another file at the path."""

    reason = "FileAlreadyExists"
    template = (
        "{name} has a file {path} with the digest {present} already; files are never overwritten: choose another path."
    )
    resource_type = "upload"


class RecordExists(AlreadyExists):
    """The key of a new record is in use."""


class NotFound(SightlineError):
    """There is no such resource."""

    code = Code.NOT_FOUND
    reason = "NotFound"
    template = "{name} does not exist."


class BatchPredictionNotFound(NotFound):
    """There is no such batch prediction."""

    resource_type = "batchPrediction"


class ResultFileNotFound(BatchPredictionNotFound):
    """The batch prediction has no such file, or not yet."""

    template = "{name} has no file {file_name!r}; its result_files, once it has ended, are what it has."


class DatasetNotFound(NotFound):
    """There is no such dataset."""

    reason = "datasetNotFound"
    resource_type = "dataset"


class UploadNotFound(NotFound):
    """There is no such upload."""

    reason = "UploadNotFound"
    resource_type = "upload"


class ModelNotFound(NotFound):
    """There is no such model."""

    reason = "ModelNotFound"
    resource_type = "model"


class ModelAliasNotFound(ModelNotFound):
    """There is no such alias of a model."""

    reason = "ModelAliasNotFound"
    template = "{name} does not exist; SetModelAlias creates an alias."
    resource_type = "modelAlias"


class ModelVersionNotFound(NotFound):
    """The model's current version is another one."""

    reason = "ModelVersionNotFound"
    template = "{name} has no version {version!r}: its current one, which alone is served, is {current!r}."
    field_name = "model_version"
    resource_type = "model"


class TrialNotFound(NotFound):
    """There is no such trial."""

    reason = "TrialNotFound"
    resource_type = "trial"


class EvaluationNotFound(NotFound):
    """There is no such evaluation."""

    reason = "EvaluationNotFound"
    resource_type = "evaluation"


class EstimateNotFound(NotFound):
    """An estimate is gone, because nobody waited for it; no call returns this."""

    template = "{name} does not exist."


class ExportNotFound(NotFound):
    """An export is gone with its model, or its model serves another version; no call returns this."""

    template = "{name} does not exist."


class RecordNotFound(NotFound):
    """There is no record at the key."""


class BlobNotFound(NotFound):
    """There is no blob at the key."""

    reason = "BlobNotFound"


class FailedPrecondition(SightlineError):
    """The system is not in the state that the request needs."""

    code = Code.FAILED_PRECONDITION
    reason = "FailedPrecondition"


class NotEnoughBudget(FailedPrecondition):
    """The budget does not cover even the cheapest model; nothing was started."""

    reason = "notEnoughBudget"
    template = (
        "A budget of {budget_seconds} s is not enough for {dataset} ({image_count:image|images}): "
        "the minimum is {minimum_seconds} s, {suggested_seconds} s is suggested."
    )
    field_name = "model.training_parameters.time_budget"


class ModelNotReady(FailedPrecondition):
    """The model has no weights to predict with, yet or ever."""

    reason = "ModelNotReady"
    template = "{name} is {state} and has no weights to predict with; {remedy}."
    resource_type = "model"


class CoverageUnavailable(FailedPrecondition):
    """The model was calibrated on too few images for prediction sets of the coverage."""

    reason = "CoverageUnavailable"
    template = "{name} cannot give prediction sets of coverage {coverage}: {problem}."


class ExportUnavailable(FailedPrecondition):
    """The model cannot be exported in the format, or not by the worker that tried; the message says what works."""

    reason = "ExportUnavailable"
    template = "{name} cannot be exported as {format}: {problem}."
    resource_type = "model"


class DatasetNotReady(FailedPrecondition):
    """The dataset has not been validated yet, or failed validation."""

    reason = "datasetNotReady"
    template = "{name} is {state}; only a READY dataset can be used."
    resource_type = "dataset"


class DatasetInUse(FailedPrecondition):
    """A training, an evaluation or a batch prediction still needs the dataset."""

    reason = "datasetInUse"
    template = "{name} is in use by {users}; wait until they have ended, or cancel or delete them first."
    resource_type = "dataset"


class ModelInUse(FailedPrecondition):
    """An alias stands for the model."""

    reason = "ModelInUse"
    template = "{name} is what {aliases} stands for; switch or delete the alias first, or set force."
    resource_type = "model"


class NothingToRollBack(FailedPrecondition):
    """An alias stood for no other model that still exists."""

    reason = "NothingToRollBack"
    template = "{name} has stood for no other model that still exists; set it to the model that you want."
    resource_type = "modelAlias"


class WrongState(FailedPrecondition):
    """The resource's state does not allow the call."""

    reason = "WrongState"
    template = "{name} is {state}; {verb} is possible in {allowed} only."


class StoreRefused(FailedPrecondition):
    """The store refuses, and retrying does not help: wrong credentials, missing permission, an impossible key."""

    reason = "StoreRefused"
    template = "The store refused {what}: {code}; check its address, credentials and permissions."


class BlobDamaged(FailedPrecondition):
    """The store returns other bytes than were stored, however often they are read."""

    reason = "BlobDamaged"
    template = "{name} is damaged in the store: its SHA-256 is {found}, not {expected}; restore it from a backup."


class AuditNotStored(FailedPrecondition):
    """The services write their audit elsewhere than where it can be queried."""

    reason = "AuditNotStored"
    template = "The audit is not stored where it can be queried; add `nats` to {setting} of every service."


class FeedbackNotKept(FailedPrecondition):
    """The predictor keeps no images of predictions."""

    reason = "FeedbackNotKept"
    template = "The predictor keeps no images of predictions; an operator switches that on by {setting}."


class BatchPredictionsOff(FailedPrecondition):
    """The predictor is set up without batch predictions, and thus without NATS."""

    reason = "BatchPredictionsOff"
    template = "This predictor does without batch predictions; set {setting} to true, or send images to AnalyzeImages."


class Diverged(FailedPrecondition):
    """The loss became infinite or NaN at every learning rate tried."""

    reason = "diverged"
    template = (
        "The loss of {trial} became {loss} at step {step}, at learning rate {learning_rate}, "
        "after {retries:retry|retries}."
    )


class DatasetCorrupt(FailedPrecondition):
    """Too many images of a snapshot cannot be read."""

    reason = "datasetCorrupt"
    template = "{unreadable} of {image_count:image|images} of {dataset} cannot be read, among them {files}."


class DatasetChanged(FailedPrecondition):
    """The store's files of a snapshot are not those of its record: they were changed or damaged since."""

    reason = "datasetChanged"
    template = "{dataset}: {file} in the store is not what the dataset's record says; restore it, or register it again."


class OutOfMemory(FailedPrecondition):
    """Not even the smallest micro-batch fits in memory."""

    reason = "outOfMemory"
    template = "{trial} does not fit in memory, not even with a micro-batch of {batch_size}."


class PoisonWork(FailedPrecondition):
    """Work whose every attempt died; it is given up rather than retried forever."""

    reason = "unknown"
    template = (
        "{name} was given up after {attempts:attempt|attempts} that ended without progress; the last one: {last}."
    )


class Conflict(SightlineError):
    """The resource was changed in the meantime; read it again, then decide again."""

    code = Code.ABORTED
    reason = "Conflict"
    template = "{name} was changed by somebody else."


class EtagMismatch(Conflict):
    """The etag is not the resource's current one."""

    reason = "EtagMismatch"
    template = "{name} has changed since etag {etag} was read (it is now {current}); get it again and repeat."


class LeaseLost(Conflict):
    """A worker's lease was taken over; the worker must stop without another write."""

    reason = "LeaseLost"
    template = "The lease of {name} at epoch {epoch} was lost."


class QuotaExceeded(SightlineError):
    """A configurable limit was reached."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "QuotaExceeded"
    template = "{subject}: {value} is more than the limit of {limit} ({setting})."


class ProjectQuotaExceeded(QuotaExceeded):
    """A project has used up a quota, or what is left of it is not enough."""

    template = "{subject}: {used}, and {asked} more would exceed the limit of {limit} ({setting}). {remedy}"


class QueueFull(QuotaExceeded):
    """A bounded queue is full; there will be room in a moment."""

    template = (
        "{subject}: {value:is|are} waiting already, the most allowed ({setting} is {limit}); ask again in a moment."
    )
    retry = True


class TooBusy(QuotaExceeded):
    """What waits already takes longer than the call has time; nothing was done."""

    template = (
        "{subject}: those that wait already take about {expected} s, and the call's deadline is in {remaining} s; "
        "ask again in a moment, or set a later deadline."
    )
    retry = True


class Throttled(QuotaExceeded):
    """One caller, or one project, already has its share of the server; others still find room."""

    reason = "Throttled"
    template = "{subject} already has its share of this server, {limit} {what} ({setting}); repeat the call later."
    retry = True


class TooManyEstimates(Throttled):
    """A project waits for as many estimates as it may at once."""

    template = "{subject} already waits for {limit} estimates, the most at once; repeat the call once one has ended."
    retry_after = timedelta(seconds=10)  # an estimate takes some seconds of a worker


class MessageTooLarge(QuotaExceeded):
    """A request has more bytes than its rpc takes."""

    reason = "MessageTooLarge"
    template = "{rpc}: a request of {size:byte|bytes} is too large; the limit is {limit}."


class DeadlineExceeded(SightlineError):
    """The call's deadline passed before its turn; nothing was done."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DeadlineExceeded"
    template = "{what} did not get its turn before the call's deadline; give it more time, or ask less at once."
    retry = True


class RequestTimedOut(DeadlineExceeded):
    """A call whose request, or the next one of its stream, did not arrive in time; nothing was done with it."""

    reason = "RequestTimedOut"
    template = "{rpc}: the request did not arrive within {seconds} s; the call was ended."


class NotServedYet(SightlineError):
    """The rpc or field is part of the contract, but this version does not serve it."""

    code = Code.UNIMPLEMENTED
    reason = "NotServedYet"
    template = "{rpc} is part of the contract but not served by this version: {detail}."


class UnknownMethod(SightlineError):
    """The server has no such rpc."""

    code = Code.UNIMPLEMENTED
    reason = "UnknownMethod"
    template = "{method} is not an rpc of this server."


# The caller is not allowed to, and needs another token.


class Unauthenticated(SightlineError):
    """There is no token, or an invalid one. The message never contains the token."""

    code = Code.UNAUTHENTICATED
    reason = "Unauthenticated"
    template = "{rpc} needs a token of the role {role}: {problem}."


class PermissionDenied(SightlineError):
    """The caller does not have the role that the rpc requires."""

    code = Code.PERMISSION_DENIED
    reason = "PermissionDenied"
    template = "{rpc} needs the role {role}; {caller} has {roles}."


class ProjectDenied(SightlineError):
    """The token is not valid for the project that the call names."""

    code = Code.PERMISSION_DENIED
    reason = "ProjectDenied"
    template = "The token of {caller} {problem}; the metadata `sightline-project` chooses the project of a call."


class Unavailable(SightlineError):
    """A dependency does not respond at the moment."""

    code = Code.UNAVAILABLE
    reason = "Unavailable"
    template = "{what} does not answer: {problem}."
    retry = True


class Draining(Unavailable):
    """The process is shutting down; another replica will answer."""

    reason = "Draining"
    template = "The {service} service is shutting down."


class Overloaded(Unavailable):
    """The server has as many calls, streams or bytes as it takes; another replica, or this one later, will answer."""

    reason = "Overloaded"
    template = "The {service} service already has {limit} {what}, its limit."


class StreamExpired(Unavailable):
    """A stream reached its maximum age; the caller opens it again."""

    reason = "StreamExpired"
    template = "{method} was open for {limit_seconds} s, the longest allowed for a stream; open it again."


class StreamIdle(StreamExpired):
    """The caller sent nothing on a stream for too long; what it had stored stays."""

    reason = "StreamIdle"
    template = (
        "Nothing arrived for {limit_seconds} s, the longest that {method} waits for the next message; send it again."
    )


class EstimateTimedOut(Unavailable):
    """The call's deadline came before a worker's measurement; nothing is left of it."""

    reason = "EstimateTimedOut"
    template = "{dataset} was not measured within {seconds} s: {problem}."
    retry_after = timedelta(seconds=30)
    resend = False  # there is no time left for it


class ExportTimedOut(Unavailable):
    """The call's deadline came before the archive was made; the work goes on, and another call joins it."""

    reason = "ExportTimedOut"
    template = "{name} was not exported as {format} within {seconds} s: {problem}."
    retry_after = timedelta(seconds=10)
    resend = False  # there is no time left for it


class Internal(SightlineError):
    """A bug in Sightline; the id is in the log too."""

    code = Code.INTERNAL
    reason = "internalServerError"
    template = "An internal error occurred; its id in the log is {error_id}."


class BundleUnusable(Internal):
    """A bundle's files are damaged or do not match, although training wrote them intact."""

    reason = "bundleUnusable"
    template = "{name}: bundle {version} cannot be loaded: {problem}. If asking again does not help, train it again."
    resource_type = "model"


class RecordUnusable(Internal):
    """A record that this version cannot read: written by a newer version, or by hand. Nothing changes it."""

    reason = "recordUnusable"
    template = "The record of {name} cannot be read: {problem}. Run the release that wrote it, or repair it."


class UnknownTrainingError(Internal):
    """A training process failed for a reason without a code."""

    reason = "unknown"
    template = "{name} failed: {problem}"


class RemoteError(SightlineError):
    """An error of another service whose reason and code no class of this tree has."""

    reason = "RemoteError"

    @classmethod
    def restore(cls, failure: Failure) -> Self:
        """Keeps the failure's code and reason too."""
        error = super().restore(failure)
        error.code, error.reason = Code(failure.code), failure.reason or cls.reason
        error.retry = error.code is Code.UNAVAILABLE
        return error
