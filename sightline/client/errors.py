"""What can go wrong, one class per reason, each with what to do about it. Standard library only.

SightlineError
├── InvalidArgument: InvalidRequest, InvalidName, InvalidPageToken, InvalidUri, DatasetInvalidAnnotationUri,
│   │   DatasetAnnotationsInvalid, DatasetEmpty, CategoriesUnknown, IncorrectModelKind
│   ├── InvalidImage: InvalidImageFormat, InvalidImageSize
│   └── about files on this machine: AnnotationsUnreadable, ImagesMissing, ExportRefused
├── AlreadyExists: DatasetAlreadyExists, ModelAlreadyExists, EvaluationAlreadyExists, UploadAlreadyExists,
│       FileAlreadyExists
├── NotFound: DatasetNotFound, ModelNotFound (ModelAliasNotFound), ModelVersionNotFound, TrialNotFound,
│       EvaluationNotFound, UploadNotFound, BlobNotFound
├── FailedPrecondition: NotEnoughBudget, DatasetNotReady, ModelNotReady, CoverageUnavailable, ExportUnavailable,
│       WrongState, DatasetInUse, ModelInUse, NothingToRollBack, StoreRefused, BlobDamaged, AuditNotStored,
│       FeedbackNotKept, BatchPredictionsOff, Diverged, DatasetCorrupt, DatasetChanged, OutOfMemory, WorkAbandoned
├── Conflict: EtagMismatch
├── QuotaExceeded: Throttled, MessageTooLarge
├── DeadlineExceeded: RequestTimedOut
├── Unauthenticated, PermissionDenied, ProjectDenied
├── Unimplemented: NotServedYet, UnknownMethod
├── Unavailable: Draining, Overloaded, StreamExpired, StreamIdle, EstimateTimedOut, ExportTimedOut, Unreachable
├── InternalError: BundleUnusable, RecordUnusable
└── AddressError, CredentialsError: wrong settings for reaching the services
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import ClassVar, Self

from sightline.client.names import bare_name
from sightline.plurals import counted

SHOWN = 50  # lines of a message
AGAIN = "register it again with --new-version (new_version=True in Python)"


@dataclass(frozen=True, slots=True)
class Details:
    """What a service reports about a failure, in addition to its message."""

    code: int = 0  # the gRPC status code
    reason: str = ""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])  # of the message, by name
    faults: tuple[str, ...] = ()  # `field: what is wrong with it`, for fields and quotas
    retry_after: timedelta | None = None
    resource: str = ""  # the resource that ended as FAILED; empty if a call failed
    status: bytes = b""  # the google.rpc.Status, as it was sent


class _Bare(dict[str, str]):
    """Variables for `advice`: the last part of a resource name; for a missing one, its name in capitals."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__({key: bare_name(value) for key, value in variables.items()})

    def __missing__(self, key: str) -> str:
        return key.upper()


class SightlineError(Exception):
    """Base class of all errors. `message` says what is wrong, `fix` what to do; a traceback shows both.

    `reason` is a stable word for programs, nearly always one class each; `retryable` says that the same call may
    succeed later without a change.
    """

    code: int = 0  # the gRPC status code; 0 if no call was made
    reason: str = ""
    advice: ClassVar[str] = ""  # what to do; {name} is the last part of the message's variable of that name

    def __init__(self, message: str, details: Details = Details(), *, fix: str = "") -> None:
        resource = details.resource
        super().__init__(f"{resource} failed: {message}" if resource else message)
        self.message, self.details = message, details
        self.code, self.reason = details.code or self.code, details.reason or self.reason
        self.fix = fix or self._retry_advice() or self._advice(details.variables)
        if self.fix:
            self.add_note(f"fix: {self.fix}")

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later without a change."""
        return self.details.retry_after is not None

    def _advice(self, variables: Mapping[str, str]) -> str:
        """What to do about it, from the message's variables; empty if the message says it."""
        return self.advice.format_map(_Bare(variables))

    def _retry_advice(self) -> str:
        after = self.details.retry_after
        return f"repeat it in {after.total_seconds():g}s" if after is not None else ""


# The request is wrong: change it.


class InvalidArgument(SightlineError):
    """The request cannot succeed unless it is changed; `details.faults` names the fields."""

    code = 3


class InvalidRequest(InvalidArgument):
    """A field is missing, malformed, or contradicts another."""

    reason = "InvalidRequest"


class InvalidName(InvalidArgument):
    """A name or id does not have the form that its collection requires."""

    reason = "InvalidName"


class InvalidPageToken(InvalidArgument):
    """A page token of another list."""

    reason = "InvalidPageToken"


class InvalidUri(InvalidArgument):
    """A uri outside the store."""

    reason = "InvalidUri"


class DatasetInvalidAnnotationUri(InvalidArgument):
    """There is no annotation file at the uri."""

    reason = "DatasetInvalidAnnotationUri"


class _DatasetUnusable(InvalidArgument):
    """An annotation file is invalid, or, if a dataset is named, the images and annotations that its findings list."""

    def _advice(self, variables: Mapping[str, str]) -> str:
        name = variables.get("dataset") or variables.get("file", "")
        if name.startswith("datasets/"):
            return f"fix what `sightline datasets findings {bare_name(name)}` lists, and {AGAIN}"
        return f"fix the COCO file and {AGAIN}"


class DatasetAnnotationsInvalid(_DatasetUnusable):
    """An annotation file, or too much of what it names, cannot be used."""

    reason = "datasetAnnotationsInvalid"


class DatasetEmpty(_DatasetUnusable):
    """No image of the dataset can be used."""

    reason = "datasetEmpty"


class CategoriesUnknown(InvalidArgument):
    """Most of a test dataset has categories that the model does not know."""

    reason = "categoriesUnknown"
    advice = f"rename the categories in the COCO file, and {AGAIN}"


class IncorrectModelKind(InvalidArgument):
    """A model and a dataset are of different kinds."""

    reason = "incorrectModelKind"
    advice = "choose a dataset that fits the model's kind; `sightline models train` without --kind uses the dataset's"


class InvalidImage(InvalidArgument):
    """An image that cannot be used."""


class InvalidImageFormat(InvalidImage):
    """The bytes are not an image in an accepted format, or the image is truncated or damaged."""

    reason = "InvalidImageFormat"


class InvalidImageSize(InvalidImage):
    """Too many bytes, or a side out of range."""

    reason = "InvalidImageSize"


class ImageUnreadable(InvalidImage):
    """A local image file cannot be read; nothing was sent."""


class AnnotationsUnreadable(InvalidArgument):
    """Local annotations cannot be read; the message says where and why. Nothing was uploaded."""

    faults: tuple[str, ...] = ()  # all of them; the message lists the first 50
    advice = "repair the file, or export the annotations in another form"

    @classmethod
    def with_faults(cls, message: str, faults: Sequence[str], fix: str) -> Self:
        """The error for an export with faults in several places."""
        error = cls("\n".join((message, *_first([f"  {fault}" for fault in faults]))), fix=fix)
        error.faults = tuple(faults)
        return error


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An image that an export names, or that is in a folder, but that cannot be uploaded."""

    image_id: object
    file_name: str
    problem: str


class ImagesMissing(InvalidArgument):
    """Images that local annotations name, or that are in a folder, cannot be uploaded. Nothing was uploaded."""

    images: tuple[MissingImage, ...] = ()  # all of them; the message lists the first 50
    advice = (
        "correct the names in the annotations, or remove these images from them; "
        "if the images are in another folder, name it with --images"
    )

    @classmethod
    def named(cls, annotations: Path, images: Sequence[MissingImage], fix: str = "") -> Self:
        """The error for an export."""
        return cls._listing(f"{annotations} names", images, fix)

    @classmethod
    def below(cls, folder: Path, images: Sequence[MissingImage]) -> Self:
        """The error for a folder."""
        return cls._listing(f"{folder} has", images, "rename or remove these files")

    @classmethod
    def _listing(cls, head: str, images: Sequence[MissingImage], fix: str) -> Self:
        lines = _first([f"  {_place(image)}: {image.problem}" for image in images])
        head = f"{head} {counted(len(images), 'image')} that cannot be uploaded; nothing was uploaded"
        error = cls("\n".join((head, *lines)), fix=fix)
        error.images = tuple(images)
        return error


class ExportRefused(InvalidArgument):
    """An export cannot be written into the folder, or not in the form."""


def _place(image: MissingImage) -> str:
    return image.file_name if image.image_id is None else f"image id {image.image_id}: {image.file_name}"


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"  and {more} more"] if more > 0 else lines


# About a resource.


class AlreadyExists(SightlineError):
    """The id is taken."""

    code = 6
    reason = "AlreadyExists"


class DatasetAlreadyExists(AlreadyExists):
    """A dataset of this name exists."""

    reason = "DatasetAlreadyExists"
    advice = (
        "choose another name, add --new-version (new_version=True in Python), or `sightline datasets delete {name}`"
    )


class ModelAlreadyExists(AlreadyExists):
    """A model of this name exists."""

    reason = "ModelAlreadyExists"
    advice = "choose another name, or `sightline models delete {name}`"


class EvaluationAlreadyExists(AlreadyExists):
    """An evaluation of this name exists."""

    reason = "EvaluationAlreadyExists"


class UploadAlreadyExists(AlreadyExists):
    """The upload is another caller's."""

    reason = "UploadAlreadyExists"


class FileAlreadyExists(AlreadyExists):
    """The upload has another file at the path."""

    reason = "FileAlreadyExists"


class NotFound(SightlineError):
    """There is no such resource."""

    code = 5
    reason = "NotFound"


class DatasetNotFound(NotFound):
    """There is no such dataset."""

    reason = "datasetNotFound"
    advice = "`sightline datasets list` prints the datasets that exist"


class UploadNotFound(NotFound):
    """There is no such upload."""

    reason = "UploadNotFound"
    advice = "`sightline uploads list` prints the uploads that exist"


class ModelNotFound(NotFound):
    """There is no such model."""

    reason = "ModelNotFound"
    advice = "`sightline models list` prints the models that exist"


class ModelAliasNotFound(ModelNotFound):
    """There is no such alias of a model."""

    reason = "ModelAliasNotFound"
    advice = "`sightline aliases list` prints the aliases that exist"


class ModelVersionNotFound(NotFound):
    """The model's current version is another one."""

    reason = "ModelVersionNotFound"


class TrialNotFound(NotFound):
    """There is no such trial."""

    reason = "TrialNotFound"


class EvaluationNotFound(NotFound):
    """There is no such evaluation."""

    reason = "EvaluationNotFound"
    advice = "create it: `sightline evaluations create MODEL NAME --dataset T`"


class BlobNotFound(NotFound):
    """There is nothing at the uri."""

    reason = "BlobNotFound"


class FailedPrecondition(SightlineError):
    """The system is not in the state that the request requires."""

    code = 9
    reason = "FailedPrecondition"


class NotEnoughBudget(FailedPrecondition):
    """The budget is too small for even the cheapest model; nothing was started."""

    reason = "notEnoughBudget"

    @property
    def minimum(self) -> timedelta | None:
        """The smallest budget that is accepted."""
        return _span(self.details.variables.get("minimum_seconds"))

    @property
    def suggested(self) -> timedelta | None:
        """A budget that is likely to give a good model."""
        return _span(self.details.variables.get("suggested_seconds"))

    def _advice(self, variables: Mapping[str, str]) -> str:
        suggested = _span(variables.get("suggested_seconds"))
        budget = f"{max(1, ceil(suggested.total_seconds()))}s" if suggested else "10m"
        return f'repeat with --budget {budget} (budget="{budget}" in Python)'


class DatasetNotReady(FailedPrecondition):
    """The dataset has not been validated, or its validation failed."""

    reason = "datasetNotReady"

    def _advice(self, variables: Mapping[str, str]) -> str:
        name = bare_name(variables.get("name", "NAME"))
        if variables.get("state") == "FAILED":
            return f"see `sightline datasets findings {name}`, fix the files, and {AGAIN}"
        return f"wait until it is READY: `sightline datasets show {name}`"


class ModelInUse(FailedPrecondition):
    """An alias stands for the model."""

    reason = "ModelInUse"
    advice = "`sightline aliases set ALIAS OTHER_MODEL`, or `--force`"


class NothingToRollBack(FailedPrecondition):
    """An alias stood for no other model that still exists."""

    reason = "NothingToRollBack"
    advice = "`sightline aliases show ALIAS` prints its models"


class DatasetInUse(FailedPrecondition):
    """A training, an evaluation or a batch prediction that has not ended needs the dataset."""

    reason = "datasetInUse"

    def _advice(self, variables: Mapping[str, str]) -> str:
        first = variables.get("users", "models/MODEL").split(", ")[0].split(" and ")[0]
        command = "batch" if first.startswith("batchPredictions/") else "models"
        waiting = f"`sightline {command} cancel {bare_name(first)}`"
        if "/evaluations/" in first or not first.startswith(("models/", "batchPredictions/")):
            waiting = "delete what uses it"
        return f"wait, or {waiting}; `--force` (force=True in Python) deletes it anyway, and what uses it fails"


class ModelNotReady(FailedPrecondition):
    """The model has no weights to predict with, yet or ever."""

    reason = "ModelNotReady"
    advice = "see its progress: `sightline models show {name}`"


class ExportUnavailable(FailedPrecondition):
    """A model cannot be exported in the format, or not by the worker that tried; the message says what works."""

    reason = "ExportUnavailable"


class CoverageUnavailable(FailedPrecondition):
    """The model was calibrated on too few images for prediction sets of this coverage."""

    reason = "CoverageUnavailable"

    @property
    def highest(self) -> float:
        """The highest coverage that the model can give; 0 if it gives none."""
        return float(self.details.variables.get("highest_coverage", "0"))


class WrongState(FailedPrecondition):
    """The operation is not allowed in this state."""

    reason = "WrongState"


class StoreRefused(FailedPrecondition):
    """The blob store refused: wrong credentials, a missing permission, or an invalid key."""

    reason = "StoreRefused"


class BlobDamaged(FailedPrecondition):
    """The store returns other bytes than were stored, however often they are read."""

    reason = "BlobDamaged"


class AuditNotStored(FailedPrecondition):
    """The services write their audit elsewhere than where it can be queried."""

    reason = "AuditNotStored"
    advice = "`sightline audit read` reads the files or logs that they write instead"


class FeedbackNotKept(FailedPrecondition):
    """The predictor keeps no images of predictions."""

    reason = "FeedbackNotKept"
    advice = "ask an operator to set SIGHTLINE_FEEDBACK_BELOW, such as to 0.6"


class BatchPredictionsOff(FailedPrecondition):
    """The predictor is set up without batch predictions."""

    reason = "BatchPredictionsOff"
    advice = "`sightline predict` takes folders too"


class Diverged(FailedPrecondition):
    """A training's loss became infinite or NaN at every learning rate that was tried."""

    reason = "diverged"


class DatasetCorrupt(FailedPrecondition):
    """Too many images of a snapshot cannot be read."""

    reason = "datasetCorrupt"
    advice = "replace or remove these images, and register the dataset again"


class DatasetChanged(FailedPrecondition):
    """The store's files of a dataset are not those that were registered: they were changed or damaged since."""

    reason = "datasetChanged"
    advice = "restore the file that the message names, or register the dataset again"


class OutOfMemory(FailedPrecondition):
    """Not even the smallest batch fits into memory."""

    reason = "outOfMemory"


class WorkAbandoned(FailedPrecondition):
    """Work was abandoned after attempts without progress, or failed for an unknown reason; see the worker's log."""

    reason = "unknown"


class Conflict(SightlineError):
    """The resource was changed concurrently."""

    code = 10
    reason = "Conflict"


class EtagMismatch(Conflict):
    """The resource has changed since it was read."""

    reason = "EtagMismatch"
    advice = "it was changed meanwhile: read it again, then repeat"


class QuotaExceeded(SightlineError):
    """A limit set by the operator is reached."""

    code = 8
    reason = "QuotaExceeded"

    def _advice(self, variables: Mapping[str, str]) -> str:
        setting = variables.get("setting", "the limit")
        if setting == "SIGHTLINE_MAX_IMAGE_BYTES":
            return f"scale the image down or leave it out of the COCO file, or have the operator raise {setting}"
        if "remedy" in variables:  # of a project
            return f"`sightline projects show` prints what is used; the operator may raise {setting}"
        return f"request less, or have the operator raise {setting}"


class Throttled(QuotaExceeded):
    """This token's owner, or the project, already has its share of the service: fewer calls at once, or later."""

    reason = "Throttled"


class MessageTooLarge(QuotaExceeded):
    """A request is larger than the service accepts."""

    reason = "MessageTooLarge"
    advice = "send less in one call; an image: scale it down or compress it more"

    def _advice(self, variables: Mapping[str, str]) -> str:
        return self.advice


class DeadlineExceeded(SightlineError):
    """The call's deadline passed before there was a response."""

    code = 4
    reason = "DeadlineExceeded"
    advice = "run `sightline doctor` where the services run, to see what they wait for; then repeat the command"


class RequestTimedOut(DeadlineExceeded):
    """The service did not receive the whole request in time."""

    reason = "RequestTimedOut"
    advice = "the connection is too slow for this request: send less at once"


class Unimplemented(SightlineError):
    """The server has no such rpc."""

    code = 12


class NotServedYet(Unimplemented):
    """The contract has it, but this version of the services does not serve it."""

    reason = "NotServedYet"


class UnknownMethod(Unimplemented):
    """No service on this server has such an rpc."""

    reason = "UnknownMethod"
    advice = "check that the address is that of this service, and its version that of `sightline --version`"


class Unauthenticated(SightlineError):
    """The call has no token, or an invalid one."""

    code = 16
    reason = "Unauthenticated"
    advice = (
        "set SIGHTLINE_TOKEN or SIGHTLINE_TOKEN_FILE to a token from your issuer, or to a key that the operator made"
        " with `sightline keys make`"
    )


class PermissionDenied(SightlineError):
    """The token's roles do not include the one that the rpc requires."""

    code = 7
    reason = "PermissionDenied"
    advice = "ask the operator of the services for a token with the role {role}"


class ProjectDenied(SightlineError):
    """The token is not valid for the project that the call names."""

    code = 7
    reason = "ProjectDenied"
    advice = "choose another project (SIGHTLINE_PROJECT, --project), or ask the operator of the services for a token"


class Unavailable(SightlineError):
    """A part that the call needs does not respond at the moment."""

    code = 14
    reason = "Unavailable"

    @property
    def retryable(self) -> bool:
        """Always."""
        return True


class Draining(Unavailable):
    """The process is shutting down; another replica or its successor will respond."""

    reason = "Draining"


class Overloaded(Unavailable):
    """The service already handles as many calls as it may."""

    reason = "Overloaded"


class StreamExpired(Unavailable):
    """A stream reached the time limit for streams."""

    reason = "StreamExpired"


class StreamIdle(Unavailable):
    """Nothing was sent on a stream for too long."""

    reason = "StreamIdle"


class ExportTimedOut(Unavailable):
    """A model's archive was not made before the call's deadline; the work goes on, and another call joins it."""

    reason = "ExportTimedOut"


class EstimateTimedOut(Unavailable):
    """No worker was free, or none had finished measuring, before the call's deadline."""

    reason = "EstimateTimedOut"


class Unreachable(Unavailable):
    """No Sightline service responded; the message names each silent service, its address and its variable."""

    reason = ""


class InternalError(SightlineError):
    """A bug in Sightline; `details.variables["error_id"]` is also in the service's log."""

    code = 13
    reason = "internalServerError"

    def _advice(self, variables: Mapping[str, str]) -> str:
        return "the service's log has the details under this id" if "error_id" in variables else ""


class BundleUnusable(InternalError):
    """A model's files are damaged."""

    reason = "bundleUnusable"


class RecordUnusable(InternalError):
    """A record that the services' release cannot read: a newer one wrote it, or it is damaged."""

    reason = "recordUnusable"


class AddressError(SightlineError, ValueError):
    """Invalid addresses; the message names each and says what is expected."""


class CredentialsError(SightlineError, ValueError):
    """Unusable credentials; the message says which variable to change."""


def class_for(reason: str, code: int) -> type[SightlineError]:
    """The class for a failure: by its reason, or by its code if this version does not know the reason."""
    kinds = list(_below(SightlineError))
    by_reason = (kind for kind in kinds if reason and kind.reason == reason)
    by_code = (kind for kind in kinds if kind.code == code)
    return next(by_reason, None) or next(by_code, None) or SightlineError


def _below(kind: type[SightlineError]) -> Iterator[type[SightlineError]]:
    """All subclasses, breadth first."""
    level = kind.__subclasses__()
    while level:
        yield from level
        level = [below for one in level for below in one.__subclasses__()]


def _span(seconds: str | None) -> timedelta | None:
    try:
        return timedelta(seconds=float(seconds)) if seconds else None
    except ValueError:
        return None
