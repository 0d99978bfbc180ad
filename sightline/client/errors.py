"""What can go wrong, one class per reason, each with what to do about it. Standard library only.

SightlineError
├── InvalidArgument: InvalidRequest, InvalidName, InvalidPageToken, InvalidUri, DatasetInvalidAnnotationUri,
│   │   DatasetAnnotationsInvalid, DatasetEmpty, CategoriesUnknown, IncorrectModelKind
│   ├── InvalidImage: InvalidImageFormat, InvalidImageSize
│   └── found here, before anything is sent: AnnotationsUnreadable, ImagesMissing
├── AlreadyExists: DatasetAlreadyExists, ModelAlreadyExists, EvaluationAlreadyExists
├── NotFound: DatasetNotFound, ModelNotFound, TrialNotFound, EvaluationNotFound, BlobNotFound
├── FailedPrecondition: NotEnoughBudget, DatasetNotReady, ModelNotReady, WrongState, StoreRefused, Diverged,
│       DatasetCorrupt, OutOfMemory, WorkAbandoned
├── Conflict: EtagMismatch
├── QuotaExceeded, DeadlineExceeded, Unauthenticated, PermissionDenied
├── Unimplemented: NotServedYet, UnknownMethod
├── Unavailable: Draining, Overloaded, StreamExpired, Unreachable
├── InternalError: BundleUnusable
└── AddressError, CredentialsError: how the services are reached is set wrongly
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import ClassVar, Self

from sightline.client.names import bare_name
from sightline.client.plurals import counted

SHOWN_MISSING = 50


@dataclass(frozen=True, slots=True)
class Details:
    """What a service says about a failure, in addition to its message."""

    code: int = 0  # the gRPC status code
    reason: str = ""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])  # of the message, by name
    faults: tuple[str, ...] = ()  # `field: what is wrong with it`, of fields and quotas
    retry_after: timedelta | None = None
    resource: str = ""  # the resource that ended as FAILED; empty where a call was refused
    status: bytes = b""  # the google.rpc.Status, as it was sent


class _Bare(dict[str, str]):
    """Variables for `advice`: the last part of a resource name; for a missing one, its name in capitals."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__({key: bare_name(value) for key, value in variables.items()})

    def __missing__(self, key: str) -> str:
        return key.upper()


class SightlineError(Exception):
    """Any refusal or failure. `message` says what is wrong, `fix` what to do; a traceback shows both.

    `reason` is the word that programs decide by (the class, mostly); `retryable` says that the same call may succeed
    later without a change.
    """

    code: int = 0  # the gRPC status code; 0 where no call was made
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
        """What to do about it, from the message's variables; empty if the message itself says it."""
        return self.advice.format_map(_Bare(variables))

    def _retry_advice(self) -> str:
        after = self.details.retry_after
        return f"repeat it in {after.total_seconds():g}s" if after is not None else ""


# Asked wrongly: change the request.


class InvalidArgument(SightlineError):
    """The request can never succeed as it is; `details.faults` names the fields."""

    code = 3


class InvalidRequest(InvalidArgument):
    """A field is missing, malformed or contradicts another."""

    reason = "InvalidRequest"


class InvalidName(InvalidArgument):
    """A name or id does not have the form that its collection asks for."""

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
    """An annotation file is at fault, or, where a dataset is named, what its findings list: images, annotations."""

    def _advice(self, variables: Mapping[str, str]) -> str:
        name = variables.get("dataset") or variables.get("file", "")
        if name.startswith("datasets/"):
            return f"mend what `sightline datasets findings {bare_name(name)}` lists, and register it under a new name"
        return "repair the COCO file and register it under a new name"


class DatasetAnnotationsInvalid(_DatasetUnusable):
    """An annotation file cannot be used, or too much of what it names."""

    reason = "datasetAnnotationsInvalid"


class DatasetEmpty(_DatasetUnusable):
    """No image of the dataset can be used."""

    reason = "datasetEmpty"


class CategoriesUnknown(InvalidArgument):
    """Most of a test dataset has categories that the model does not know."""

    reason = "categoriesUnknown"
    advice = "rename the categories in the COCO file, and register it under a new name"


class IncorrectModelKind(InvalidArgument):
    """A model and a dataset of different kinds were put together."""

    reason = "incorrectModelKind"
    advice = (
        "choose a dataset that fits the model's kind; `sightline models train` without --kind takes that of the dataset"
    )


class InvalidImage(InvalidArgument):
    """An image that cannot be used."""


class InvalidImageFormat(InvalidImage):
    """Bytes that are no image of an accepted format, cut off, or damaged."""

    reason = "InvalidImageFormat"


class InvalidImageSize(InvalidImage):
    """Too many bytes, or a side out of range."""

    reason = "InvalidImageSize"


class ImageUnreadable(InvalidImage):
    """A local image file cannot be read; nothing was sent."""


class AnnotationsUnreadable(InvalidArgument):
    """A local COCO file cannot be read; the message says where and why. Nothing was uploaded."""

    advice = "export the annotations as COCO JSON"


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An image that a COCO file names and that cannot be uploaded."""

    image_id: object
    file_name: str
    problem: str


class ImagesMissing(InvalidArgument):
    """Images that a local COCO file names are not there. Nothing was uploaded."""

    images: tuple[MissingImage, ...] = ()  # all of them; the message lists the first 50
    advice = "name the folder that the file names start from with --images, or remove these images from the COCO file"

    @classmethod
    def named(cls, annotations: Path, images: Sequence[MissingImage]) -> Self:
        """The error for a COCO file."""
        lines = [f"  image id {image.image_id}: {image.file_name}: {image.problem}" for image in images]
        if len(lines) > SHOWN_MISSING:
            lines[SHOWN_MISSING:] = [f"  and {len(lines) - SHOWN_MISSING} more"]
        head = f"{annotations} names {counted(len(images), 'image')} that cannot be uploaded; nothing was uploaded"
        error = cls("\n".join((head, *lines)))
        error.images = tuple(images)
        return error


# About a resource.


class AlreadyExists(SightlineError):
    """The id is taken."""

    code = 6
    reason = "AlreadyExists"


class DatasetAlreadyExists(AlreadyExists):
    """A dataset of this name exists."""

    reason = "DatasetAlreadyExists"
    advice = "choose another name, or `sightline datasets delete {name}`"


class ModelAlreadyExists(AlreadyExists):
    """A model of this name exists."""

    reason = "ModelAlreadyExists"
    advice = "choose another name, or `sightline models delete {name}`"


class EvaluationAlreadyExists(AlreadyExists):
    """An evaluation of this name exists."""

    reason = "EvaluationAlreadyExists"


class NotFound(SightlineError):
    """There is no such resource."""

    code = 5
    reason = "NotFound"


class DatasetNotFound(NotFound):
    """There is no such dataset."""

    reason = "datasetNotFound"
    advice = "`sightline datasets list` prints the datasets that exist"


class ModelNotFound(NotFound):
    """There is no such model."""

    reason = "ModelNotFound"
    advice = "`sightline models list` prints the models that exist"


class TrialNotFound(NotFound):
    """There is no such trial."""

    reason = "TrialNotFound"


class EvaluationNotFound(NotFound):
    """There is no such evaluation."""

    reason = "EvaluationNotFound"
    advice = "create it: `sightline evaluations create MODEL NAME --dataset T`"


class BlobNotFound(NotFound):
    """Nothing lies at the uri."""

    reason = "BlobNotFound"


class FailedPrecondition(SightlineError):
    """The system is not in the state that the request needs."""

    code = 9
    reason = "FailedPrecondition"


class NotEnoughBudget(FailedPrecondition):
    """The budget does not even pay for the cheapest model; nothing was started."""

    reason = "notEnoughBudget"

    @property
    def minimum(self) -> timedelta | None:
        """The smallest budget that is accepted."""
        return _span(self.details.variables.get("minimum_seconds"))

    @property
    def suggested(self) -> timedelta | None:
        """A budget that is likely to bring a good model."""
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
            return f"see `sightline datasets findings {name}`, repair the files, and register them under a new name"
        return f"wait until it is READY: `sightline datasets show {name}`"


class ModelNotReady(FailedPrecondition):
    """The model has no weights to predict with, yet or ever."""

    reason = "ModelNotReady"
    advice = "see how far it is: `sightline models show {name}`"


class WrongState(FailedPrecondition):
    """What was asked for does not start from this state."""

    reason = "WrongState"


class StoreRefused(FailedPrecondition):
    """The blob store refuses: credentials, a missing permission, an impossible key."""

    reason = "StoreRefused"


class Diverged(FailedPrecondition):
    """A training's loss stopped being finite, at every rate that was tried."""

    reason = "diverged"


class DatasetCorrupt(FailedPrecondition):
    """Too many images of a snapshot cannot be read."""

    reason = "datasetCorrupt"
    advice = "replace or remove the images that are named, and register the dataset again"


class OutOfMemory(FailedPrecondition):
    """Not even the smallest batch fits in memory."""

    reason = "outOfMemory"


class WorkAbandoned(FailedPrecondition):
    """Work was given up after attempts without progress, or failed in a way without a name; the log says more."""

    reason = "unknown"


class Conflict(SightlineError):
    """Somebody else changed the thing first."""

    code = 10
    reason = "Conflict"


class EtagMismatch(Conflict):
    """The resource has changed since it was read."""

    reason = "EtagMismatch"
    advice = "somebody changed it meanwhile: look at it again, then repeat"


class QuotaExceeded(SightlineError):
    """A limit that is a setting of the services is reached."""

    code = 8
    reason = "QuotaExceeded"

    def _advice(self, variables: Mapping[str, str]) -> str:
        setting = variables.get("setting", "the limit")
        if setting == "SIGHTLINE_MAX_IMAGE_BYTES":
            return f"scale the image down or leave it out of the COCO file; or let the operator raise {setting}"
        return f"ask for less, or let the operator raise {setting}"


class DeadlineExceeded(SightlineError):
    """The call's deadline passed before it was answered."""

    code = 4
    reason = "DeadlineExceeded"
    advice = "see what the services wait for with `sightline doctor`, where they run; then repeat the command"


class Unimplemented(SightlineError):
    """The server has no such rpc."""

    code = 12


class NotServedYet(Unimplemented):
    """The contract has it; this version of the services does not serve it."""

    reason = "NotServedYet"


class UnknownMethod(Unimplemented):
    """No service of this server has such an rpc."""

    reason = "UnknownMethod"


class Unauthenticated(SightlineError):
    """The call has no token, or one that does not hold."""

    code = 16
    reason = "Unauthenticated"
    advice = (
        "set SIGHTLINE_TOKEN, or SIGHTLINE_TOKEN_FILE, to a token of your issuer or to a key that the operator made"
        " with `sightline keys make`"
    )


class PermissionDenied(SightlineError):
    """The token's roles do not include the one that the rpc asks for."""

    code = 7
    reason = "PermissionDenied"
    advice = "ask whoever runs the services for a token of the role {role}"


class Unavailable(SightlineError):
    """A part that is needed does not answer at the moment."""

    code = 14
    reason = "Unavailable"

    @property
    def retryable(self) -> bool:
        """Always."""
        return True


class Draining(Unavailable):
    """The process shuts down; another replica, or its successor, will answer."""

    reason = "Draining"


class Overloaded(Unavailable):
    """A service answers as many calls as it may."""

    reason = "Overloaded"


class StreamExpired(Unavailable):
    """A stream was open for as long as one may be."""

    reason = "StreamExpired"


class Unreachable(Unavailable):
    """No Sightline service answered; the message names each silent service, its address and its variable."""

    reason = ""


class InternalError(SightlineError):
    """A defect of Sightline; `details.variables["error_id"]` stands in the service's log too."""

    code = 13
    reason = "internalServerError"

    def _advice(self, variables: Mapping[str, str]) -> str:
        return "the service's log has the whole story under this id" if "error_id" in variables else ""


class BundleUnusable(InternalError):
    """A model's files are damaged."""

    reason = "bundleUnusable"


class AddressError(SightlineError, ValueError):
    """Addresses that no service can have; the message names each and says what is expected."""


class CredentialsError(SightlineError, ValueError):
    """What the credentials name cannot be used; the message says which variable to change."""


def class_for(reason: str, code: int) -> type[SightlineError]:
    """The class of a failure: by its reason, or by its code if this version does not know the reason."""
    kinds = list(_below(SightlineError))
    by_reason = (kind for kind in kinds if reason and kind.reason == reason)
    by_code = (kind for kind in kinds if kind.code == code)
    return next(by_reason, None) or next(by_code, None) or SightlineError


def _below(kind: type[SightlineError]) -> Iterator[type[SightlineError]]:
    """Every class below, those nearest to the root first."""
    level = kind.__subclasses__()
    while level:
        yield from level
        level = [below for one in level for below in one.__subclasses__()]


def _span(seconds: str | None) -> timedelta | None:
    try:
        return timedelta(seconds=float(seconds)) if seconds else None
    except ValueError:
        return None
