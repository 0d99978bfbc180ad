"""Kinds and states as words. A value from a newer service that this version does not know becomes UNKNOWN."""

from enum import StrEnum
from typing import Protocol, TypeVar

W = TypeVar("W", bound=StrEnum)
N_contra = TypeVar("N_contra", contravariant=True)


class DatasetKind(StrEnum):
    """What the annotations of a dataset say about an image."""

    CLASSIFICATION = "classification"  # one category for the whole image
    DETECTION = "detection"  # a box and a category for each object
    UNKNOWN = "unknown"


class ModelKind(StrEnum):
    """What a model does."""

    CLASSIFIER = "classifier"  # gives an image one tag
    DETECTOR = "detector"  # finds objects and their boxes
    UNKNOWN = "unknown"


class DatasetState(StrEnum):
    """The state of a dataset."""

    VALIDATING = "VALIDATING"  # its files are being checked
    READY = "READY"  # it can be trained on, and never changes
    FAILED = "FAILED"  # `error` and the findings say why
    DELETING = "DELETING"
    UNKNOWN = "UNKNOWN"


class ModelState(StrEnum):
    """The state of a model."""

    NOT_STARTED = "NOT_STARTED"
    TRAINING = "TRAINING"  # predicts with its best weights so far, as soon as there are any
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # `error` says why
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"  # the best weights so far are kept
    UNKNOWN = "UNKNOWN"


class TrialState(StrEnum):
    """The state of a trial."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    STOPPED = "STOPPED"  # early, on purpose
    UNKNOWN = "UNKNOWN"


class BatchState(StrEnum):
    """The state of a batch prediction."""

    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # `error` says why; the results so far are kept
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"  # the results so far are kept
    DELETING = "DELETING"
    UNKNOWN = "UNKNOWN"


class EvaluationState(StrEnum):
    """The state of an evaluation."""

    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "ERROR"  # the image or annotation is left out
    WARNING = "WARNING"  # kept or repaired, and likely to harm training or its metrics
    INFO = "INFO"
    UNKNOWN = "UNKNOWN"


class DoubtKind(StrEnum):
    """What is probably wrong with a region."""

    UNKNOWN = "UNKNOWN"
    MISSING = "MISSING"
    MISPLACED = "MISPLACED"
    CATEGORY = "CATEGORY"


class StopReason(StrEnum):
    """Why a training ended."""

    BUDGET_REACHED = "BUDGET_REACHED"  # nothing that could help fits into the rest of the budget
    CONVERGED = "CONVERGED"  # nothing better is expected
    NO_FURTHER_GAIN = "NO_FURTHER_GAIN"  # the expected gain is not worth its cost
    LADDER_COMPLETED = "LADDER_COMPLETED"  # every step that the hyperparameters allow is done
    CANCELLED_BY_CALLER = "CANCELLED_BY_CALLER"
    UNKNOWN = "UNKNOWN"


class WaitReason(StrEnum):
    """Why a training does not move."""

    DATASET_VALIDATING = "DATASET_VALIDATING"  # a dataset is being validated
    DATASET_SERVICE_UNREACHABLE = "DATASET_SERVICE_UNREACHABLE"  # the dataset service does not respond
    NO_WORKER = "NO_WORKER"  # no trainer worker is connected
    WORKERS_BUSY = "WORKERS_BUSY"  # with other work
    WORKER_STARTING = "WORKER_STARTING"  # a worker takes the work within seconds
    UNKNOWN = "UNKNOWN"


class Source(StrEnum):
    """The images that a model was measured on."""

    TEST_DATASET = "TEST_DATASET"  # the one that the caller named
    HOLD_OUT = "HOLD_OUT"  # a part of the training dataset, set aside before anything was tried
    CROSS_VALIDATION = "CROSS_VALIDATION"  # folds of the training dataset, if it has few images
    UNKNOWN = "UNKNOWN"


class _Names(Protocol[N_contra]):
    def Name(self, number: N_contra, /) -> str:  # noqa: N802 - protobuf's name
        """The name of a number; ValueError if this version does not know it."""
        ...


def word(kind: type[W], names: "_Names[N_contra]", number: N_contra) -> W:
    """The word for a number of a protobuf enum."""
    name = name_of(names, number)
    return kind(name) if name in set(kind) else kind("UNKNOWN")


def name_of(names: "_Names[N_contra]", number: N_contra) -> str:
    """The contract's name for a number of a protobuf enum."""
    try:
        return names.Name(number)
    except ValueError:
        return "UNKNOWN"
