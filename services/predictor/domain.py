"""The predictor's nouns and rules: which bundle answers for a model, and what an answer is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import InvalidRequest, ModelNotReady, NotServedYet
from services.vision.card import ModelCard
from services.vision.classifier import Prepared

DEFAULT_MAX_RESULTS = 100
MAX_MAX_RESULTS = 1000
WEIGHTS_FILE = "weights.safetensors"
BUNDLE_FILES = (WEIGHTS_FILE, "card.json", "digests.json")


class ModelState(StrEnum):
    """Where a model is in its life, as the trainer says it."""

    NOT_STARTED = "NOT_STARTED"
    TRAINING = "TRAINING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"


class ModelKind(StrEnum):
    """What a model does."""

    CLASSIFIER = "GENERIC_CLASSIFIER"
    DETECTOR = "GENERIC_DETECTOR"


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
    kind: ModelKind
    version: str
    bundle_uri: str

    def bundle(self) -> Bundle:
        """The bundle that answers now, in whatever state the model is; ModelNotReady if there is none yet."""
        if not self.version or not self.bundle_uri:
            raise ModelNotReady(name=self.name, state=self.state.value, remedy=_REMEDIES[self.state])
        if self.kind is not ModelKind.CLASSIFIER:
            detail = f"{self.name} is a detector, and only classifiers are served so far"
            raise NotServedYet(rpc="Prediction with a detector", detail=detail)
        return Bundle(self.name, self.version, self.bundle_uri)


class Models(Protocol):
    """The trainer as the predictor sees it."""

    async def get(self, name: str) -> ModelInfo:
        """The model as it is now; ModelNotFound, or Unavailable if the trainer does not answer."""
        ...


class Classifier(Protocol):
    """A loaded bundle; `services.vision.classifier.Classifier` is the real one.

    Law: `prepare` may run in many threads at once; an image's row does not depend on the images beside it.
    """

    card: ModelCard

    def prepare(self, data: bytes, name: str = "image") -> Prepared:
        """The network's input for an image file, exactly as in training; raises InvalidImage."""
        ...

    def predict_prepared(self, images: Sequence[Prepared]) -> NDArray[np.float32]:
        """Calibrated probabilities [image, category]."""
        ...


class Loader(Protocol):
    """Makes a classifier of a bundle's files."""

    def __call__(self, directory: Path, /) -> Classifier:
        """Blocks; ValueError if the files do not match their digests or one another."""
        ...


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """One image to analyse: its bytes or, where they are None, its uri in the store."""

    model_name: str
    image: bytes | None
    uri: str
    score_threshold: float | None  # None: the model's own thresholds
    max_results: int | None  # None: DEFAULT_MAX_RESULTS

    def check(self) -> None:
        """InvalidRequest unless threshold and number are in range."""
        threshold, limit = self.score_threshold, self.max_results
        if threshold is not None and not (math.isfinite(threshold) and 0 <= threshold <= 1):
            raise InvalidRequest(field="score_threshold", problem=f"{threshold:g} is outside 0..1")
        if limit is not None and not 1 <= limit <= MAX_MAX_RESULTS:
            raise InvalidRequest(field="max_results", problem=f"{limit} is outside 1..{MAX_MAX_RESULTS}")


@dataclass(frozen=True, slots=True)
class Tag:
    """A category and the model's calibrated confidence in it."""

    name: str
    confidence: float  # 0..1


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a model sees in an image of so many pixels, upright."""

    model_version: str
    width: int
    height: int
    tags: tuple[Tag, ...]  # the most confident first


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in this replica's memory."""

    name: str
    version: str
    size_bytes: int
    load_time: datetime
    last_used_time: datetime | None  # None: it has not answered yet
    use_count: int


def rank(card: ModelCard, probabilities: NDArray[np.float32], query: ImageQuery) -> tuple[Tag, ...]:
    """The tags whose probability reaches the query's threshold, by falling confidence, ties in the model's order.

    Without a threshold the card's own count, one a category, and where it has none every tag is told.
    """
    thresholds: Sequence[float] = card.thresholds or [0.0] * len(card.categories)
    if query.score_threshold is not None:
        thresholds = [query.score_threshold] * len(card.categories)
    order = [int(index) for index in np.argsort(-probabilities, kind="stable")]
    tags = [
        Tag(card.categories[index].name, float(probabilities[index]))
        for index in order
        if probabilities[index] >= thresholds[index]
    ]
    return tuple(tags[: query.max_results or DEFAULT_MAX_RESULTS])
