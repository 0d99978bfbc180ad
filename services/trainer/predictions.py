"""A trial's predictions for images that it was not trained on: a small file for paired comparisons. No torch."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.kit import codec

MAX_DETECTIONS = 1_000_000  # per file, 28 bytes each; beyond this, those with the highest scores are kept


class Outcomes(msgspec.Struct, frozen=True, kw_only=True, tag="classifier"):
    """Parallel columns, ascending by image id. Top-1 accuracy is the mean of `correct`."""

    image_ids: tuple[int, ...]
    correct: tuple[bool, ...]


class Predictions(Outcomes, frozen=True, kw_only=True, tag="classifier"):
    """The outcomes, and what they come from."""

    categories: tuple[str, ...]
    labels: tuple[int, ...]  # true category, by index
    predicted: tuple[int, ...]
    log_losses: tuple[float, ...]
    probabilities: tuple[tuple[float, ...], ...] = ()  # calibrated; empty if there are more than a million


Dtype = Literal["<i4", "<i8", "<f4", "|b1"]


class Column(msgspec.Struct, frozen=True, array_like=True):
    """An array as little-endian bytes."""

    dtype: Dtype
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: NDArray[Any], dtype: Dtype) -> "Column":
        """The values, cast."""
        packed = np.ascontiguousarray(values, dtype=np.dtype(dtype))
        return cls(dtype, packed.shape, packed.tobytes())

    def array(self) -> NDArray[Any]:
        """The values, read-only; ValueError if the bytes do not fit shape and type."""
        return np.frombuffer(self.data, dtype=np.dtype(self.dtype)).reshape(self.shape)


class Truths(msgspec.Struct, frozen=True, kw_only=True):
    """The annotated regions, one per row, ascending by image."""

    images: Column  # int32 [t]: which of `image_ids`
    labels: Column  # int32 [t]: category, by index
    boxes: Column  # float32 [t, 4]: left, top, width, height in pixels of the upright image
    crowds: Column  # bool [t]: a group of objects, in which detections count neither as right nor as wrong


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Detections, one per row, ascending by image and within each by descending score."""

    images: Column  # int32 [d]
    labels: Column  # int32 [d]
    boxes: Column  # float32 [d, 4]
    scores: Column  # float32 [d]


class DetectorPredictions(msgspec.Struct, frozen=True, kw_only=True, tag="detector"):
    """Truths and detections of the same images, as columns."""

    categories: tuple[str, ...]
    image_ids: Column  # int64 [n], ascending
    truths: Truths
    found: Found


AnyPredictions = Predictions | DetectorPredictions
AnyOutcomes = Outcomes | DetectorPredictions


def truths(images: NDArray[Any], labels: NDArray[Any], boxes: NDArray[Any], crowds: NDArray[Any]) -> Truths:
    """Packs regions in any order."""
    order = np.argsort(images, kind="stable")
    return Truths(
        images=Column.of(images[order], "<i4"),
        labels=Column.of(labels[order], "<i4"),
        boxes=Column.of(boxes.reshape(-1, 4)[order], "<f4"),
        crowds=Column.of(crowds[order], "|b1"),
    )


def found(images: NDArray[Any], labels: NDArray[Any], boxes: NDArray[Any], scores: NDArray[Any]) -> Found:
    """Packs detections in any order; those with the highest scores if there are too many for a file."""
    order = np.lexsort((-scores, images))
    if len(order) > MAX_DETECTIONS:
        surest = np.argsort(-scores[order], kind="stable")[:MAX_DETECTIONS]
        order = order[np.sort(surest)]
    return Found(
        images=Column.of(images[order], "<i4"),
        labels=Column.of(labels[order], "<i4"),
        boxes=Column.of(boxes.reshape(-1, 4)[order], "<f4"),
        scores=Column.of(scores[order], "<f4"),
    )


def image_ids(ids: NDArray[Any]) -> Column:
    """Packs ascending image ids."""
    return Column.of(ids, "<i8")


def write_predictions(path: Path, predictions: AnyPredictions) -> None:
    """Writes predictions to a file."""
    path.write_bytes(msgspec.msgpack.encode(predictions))


def read_predictions(data: bytes) -> AnyPredictions:
    """Inverse of `write_predictions`; ValueError for anything else."""
    return codec.unpack(data, AnyPredictions)


def read_outcomes(data: bytes) -> AnyOutcomes:
    """As `read_predictions`, but of a classifier only the outcomes, which take a small part of the memory."""
    return codec.unpack(data, AnyOutcomes)
