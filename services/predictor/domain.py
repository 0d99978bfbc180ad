"""The predictor's nouns and rules: which bundle serves a model, and which queries are valid."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import InvalidRequest, ModelNotReady, ModelVersionNotFound
from services.vision.card import ModelCard, ModelKind
from services.vision.decode import Decoded
from services.vision.image_detections import ImageDetections
from services.vision.inputs import Letterboxed, Views

Prepared = Views | Letterboxed  # a classifier's input for an image, or a detector's
Shape = tuple[tuple[int, ...], ...]  # of each array of an input
RawOutput = NDArray[np.float32] | ImageDetections  # a classifier's probabilities [category], or a detector's detections

DEFAULT_MAX_RESULTS = 100
MAX_MAX_RESULTS = 1000


class ModelState(StrEnum):
    """The state of a model, as reported by the trainer."""

    NOT_STARTED = "NOT_STARTED"
    TRAINING = "TRAINING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"


_REMEDIES = {
    ModelState.NOT_STARTED: "wait for its first trial to end (see WatchModel), then try again",
    ModelState.TRAINING: "wait for its first trial to end (see WatchModel), then try again",
    ModelState.SUCCEEDED: "train another model",
    ModelState.FAILED: "read its error (GetModel), then train another model",
    ModelState.CANCELLING: "train another model and cancel it later",
    ModelState.CANCELLED: "train another model and cancel it later",
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """One version of a model's weights; each version has its own uri."""

    model_name: str  # models/{model}
    version: str
    uri: str  # s3://bucket/key/, the prefix of its files
    digest: str = ""  # in the model's record; empty of models of earlier versions
    signature: str = ""


def model_uri(bundle_uri: str) -> str:
    """The part of a bundle's uri that no two models have in common, whatever their names."""
    model, trials, _ = bundle_uri.partition("/trials/")
    return model if trials else ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the predictor needs to know about a model; version and uri are empty before its first bundle."""

    name: str  # models/{model}
    state: ModelState
    version: str
    bundle_uri: str
    bundle_digest: str = ""
    bundle_signature: str = ""
    kind: ModelKind = ModelKind.GENERIC_CLASSIFIER
    prediction_cost: timedelta = timedelta()  # compute of one image, decoding included; 0 if not known

    def bundle(self, version: str = "") -> Bundle:
        """The current bundle, whatever the model's state.

        ModelNotReady if there is none yet, ModelVersionNotFound if a version is wanted that is not the current one.
        """
        if not self.version or not self.bundle_uri:
            raise ModelNotReady(name=self.name, state=self.state.value, remedy=_REMEDIES[self.state])
        if version not in ("", self.version):
            raise ModelVersionNotFound(name=self.name, version=version, current=self.version)
        return Bundle(self.name, self.version, self.bundle_uri, self.bundle_digest, self.bundle_signature)


class Models(Protocol):
    """The trainer as the predictor sees it."""

    async def get(self, name: str) -> ModelInfo:
        """The current model; ModelNotFound, or Unavailable if the trainer does not respond."""
        ...

    async def list(self) -> "list[ModelInfo]":
        """The models of the project that the call acts in, by name; Unavailable if the trainer does not respond."""
        ...


class ModelRunner(Protocol):
    """A loaded model: a classifier or detector of `services.vision`, on any engine.

    Law: `arrange` is thread-safe; an image's output does not depend on the rest of its batch.
    """

    card: ModelCard

    @property
    def sizes(self) -> Sequence[int]:
        """How large the networks need an image: each `at_least` of `decode`."""
        ...

    def decode(self, data: bytes, name: str = "image") -> Decoded:
        """An image of one's own, decoded in this process; callers' images go through `Decoders`."""
        ...

    def arrange(self, decoded: Decoded, /) -> Prepared:
        """The network's input from the pixels for each of `sizes`, exactly as in training; a copy."""
        ...

    def predict_prepared(self, images: Sequence[Any]) -> Iterable[RawOutput]:
        """The output for each image; the images are ones that this model has prepared."""
        ...


class Loader(Protocol):
    """Loads a model from a bundle's files."""

    def __call__(self, directory: Path, /, *, digest: str) -> ModelRunner:
        """Blocks; ValueError if the files do not match their digests, these the record's `digest`, or each other."""
        ...


def input_shape(image: Prepared) -> Shape:
    """The shape of an input; inputs of equal shape can be batched."""
    return tuple(tuple(part.shape) for part in (image if isinstance(image, tuple) else (image.pixels,)))


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """One image to analyze: its bytes or, if they are None, its uri in the store."""

    model_name: str
    image: bytes | None
    uri: str
    score_threshold: float | None  # None: the suggested ones for a detector, none for a classifier
    max_results: int | None  # None: DEFAULT_MAX_RESULTS
    use_suggested_thresholds: bool = False
    coverage: float | None = None  # of the prediction set; None: no set
    model_version: str = ""  # that must answer; empty: the current one
    no_feedback: bool = False  # the image must not be kept
    file: str = "image"  # what error messages call the image's bytes

    def check(self, path: str = "") -> None:
        """InvalidRequest unless the values are in range and at most one kind of threshold is set.

        `path` leads to the fields in the request.
        """
        threshold, limit = self.score_threshold, self.max_results
        if threshold is not None and not (math.isfinite(threshold) and 0 <= threshold <= 1):
            raise InvalidRequest(field=f"{path}score_threshold", problem=f"{threshold:g} is outside 0..1")
        if limit is not None and not 1 <= limit <= MAX_MAX_RESULTS:
            raise InvalidRequest(field=f"{path}max_results", problem=f"{limit} is outside 1..{MAX_MAX_RESULTS}")
        if threshold is not None and self.use_suggested_thresholds:
            raise InvalidRequest(
                field=f"{path}use_suggested_thresholds", problem="score_threshold is set too; set one of them"
            )
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise InvalidRequest(field=f"{path}coverage", problem=f"{self.coverage:g} is not above 0 and below 1")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in this replica's memory."""

    name: str
    version: str
    size_bytes: int
    load_time: datetime
    last_used_time: datetime | None  # None: not used yet
    use_count: int
    kept: bool = False  # by LoadModel or SIGHTLINE_PRELOAD_MODELS
