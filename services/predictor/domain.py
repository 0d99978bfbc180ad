"""The predictor's nouns and rules: which bundle answers for a model, and what may be asked of it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import InvalidRequest, ModelNotReady
from services.vision import classifier, detector
from services.vision.card import ModelCard
from services.vision.detections import Detections

Prepared = classifier.Prepared | detector.Prepared  # a classifier's input for an image, or a detector's
Seen = NDArray[np.float32] | Detections  # a classifier's probabilities [category], or a detector's objects

DEFAULT_MAX_RESULTS = 100
MAX_MAX_RESULTS = 1000


class ModelState(StrEnum):
    """Where a model is in its life, as the trainer says it."""

    NOT_STARTED = "NOT_STARTED"
    TRAINING = "TRAINING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"


_REMEDIES = {
    ModelState.NOT_STARTED: "wait for its first trial to end (WatchModel tells), then ask again",
    ModelState.TRAINING: "wait for its first trial to end (WatchModel tells), then ask again",
    ModelState.SUCCEEDED: "train another model",
    ModelState.FAILED: "read its error (GetModel), then train another model",
    ModelState.CANCELLING: "train another model and cancel it later",
    ModelState.CANCELLED: "train another model and cancel it later",
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model's weights at one moment; another bundle of the same model has another version and another place."""

    model_name: str  # models/{model}
    version: str
    uri: str  # s3://bucket/key/, below which BUNDLE_FILES are


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the predictor needs to know of a model; version and uri are empty before its first bundle."""

    name: str  # models/{model}
    state: ModelState
    version: str
    bundle_uri: str

    def bundle(self) -> Bundle:
        """The bundle that answers now, in whatever state the model is; ModelNotReady if there is none yet."""
        if not self.version or not self.bundle_uri:
            raise ModelNotReady(name=self.name, state=self.state.value, remedy=_REMEDIES[self.state])
        return Bundle(self.name, self.version, self.bundle_uri)


class Models(Protocol):
    """The trainer as the predictor sees it."""

    async def get(self, name: str) -> ModelInfo:
        """The model as it is now; ModelNotFound, or Unavailable if the trainer does not answer."""
        ...


class Recogniser(Protocol):
    """A loaded bundle: `services.vision`'s Classifier or Detector.

    Law: `decode` and `arrange` may run in many threads at once; what is seen in an image does not depend on
    the images beside it.
    """

    card: ModelCard

    def decode(self, data: bytes, name: str = "image") -> Any:
        """The upright pixels of an image file, as large as its networks need them; raises InvalidImage."""
        ...

    def arrange(self, decoded: Any, /) -> Prepared:
        """The network's input from what `decode` returned, exactly as in training."""
        ...

    def predict_prepared(self, images: Sequence[Any]) -> Iterable[Seen]:
        """What it sees in each of the images, which it has prepared itself."""
        ...


class Loader(Protocol):
    """Makes a recogniser of a bundle's files."""

    def __call__(self, directory: Path, /) -> Recogniser:
        """Blocks; ValueError if the files do not match their digests or one another."""
        ...


def input_shape(image: Prepared) -> tuple[tuple[int, ...], ...]:
    """Inputs of equal shape can go through their network together."""
    return tuple(tuple(part.shape) for part in (image if isinstance(image, tuple) else (image.pixels,)))


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """One image to analyse: its bytes or, where they are None, its uri in the store."""

    model_name: str
    image: bytes | None
    uri: str
    score_threshold: float | None  # None: of a detector the suggested ones, of a classifier none
    max_results: int | None  # None: DEFAULT_MAX_RESULTS
    use_suggested_thresholds: bool = False

    def check(self) -> None:
        """InvalidRequest unless threshold and number are in range, and there is one kind of threshold at most."""
        threshold, limit = self.score_threshold, self.max_results
        if threshold is not None and not (math.isfinite(threshold) and 0 <= threshold <= 1):
            raise InvalidRequest(field="score_threshold", problem=f"{threshold:g} is outside 0..1")
        if limit is not None and not 1 <= limit <= MAX_MAX_RESULTS:
            raise InvalidRequest(field="max_results", problem=f"{limit} is outside 1..{MAX_MAX_RESULTS}")
        if threshold is not None and self.use_suggested_thresholds:
            raise InvalidRequest(
                field="use_suggested_thresholds", problem="score_threshold is set too; set one of them"
            )


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in this replica's memory."""

    name: str
    version: str
    size_bytes: int
    load_time: datetime
    last_used_time: datetime | None  # None: it has not answered yet
    use_count: int
