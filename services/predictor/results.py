"""The predictor's results: the tags or objects that reach their threshold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.predictor.domain import DEFAULT_MAX_RESULTS, ImageQuery, RawOutput
from services.predictor.sets import PredictionSet, set_of
from services.vision.card import ModelCard, ModelKind
from services.vision.image_detections import ImageDetections


@dataclass(frozen=True, slots=True)
class Tag:
    """A category and its confidence: calibrated for a classifier, the network's score for a detector."""

    name: str
    confidence: float  # 0..1


@dataclass(frozen=True, slots=True)
class PixelBox:
    """A box in whole pixels of the upright image: at least 1 x 1, and inside it."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True, slots=True)
class Object:
    """An object in an image: its box and category."""

    box: PixelBox
    tag: Tag


@dataclass(frozen=True, slots=True)
class Tags:
    """A classifier's result, most confident first."""

    values: tuple[Tag, ...]
    prediction_set: PredictionSet | None = None  # if the query asks for one


@dataclass(frozen=True, slots=True)
class Objects:
    """A detector's result, most confident first."""

    values: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """A model's result for an image, with the size of the upright image."""

    model_version: str
    width: int
    height: int
    result: Tags | Objects


def result_of(card: ModelCard, output: RawOutput, width: int, height: int, query: ImageQuery) -> Tags | Objects:
    """What reaches the query's threshold, by decreasing confidence, at most `max_results`.

    Without a threshold a classifier returns every category, so that its first tag is its decision; a detector applies
    the suggested thresholds, as it scores hundreds of boxes in any image. Ties are in the model's order.
    """
    labels, scores, chosen = selected(card, output, query)
    tags = [Tag(card.categories[labels[index]].name, float(scores[index])) for index in chosen]
    if not isinstance(output, ImageDetections):
        return Tags(tuple(tags), set_of(card, output, query))
    boxes = whole_pixels(output.boxes[chosen], width, height)
    return Objects(tuple(Object(box, tag) for box, tag in zip(boxes, tags, strict=True)))


def selected(
    card: ModelCard, output: RawOutput, query: ImageQuery
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.intp]]:
    """Labels, scores, and the indices of those that `result_of` returns, in its order."""
    labels, scores = _scored(output)
    most = query.max_results or DEFAULT_MAX_RESULTS
    return labels, scores, _chosen(labels, scores, _thresholds(card, query), most)


def whole_pixels(boxes: NDArray[np.float32], width: int, height: int) -> list[PixelBox]:
    """Boxes [n, 4] of left, top, width, height, rounded to whole pixels of an image of the given size.

    The edges are rounded, not the sizes, so that adjacent boxes stay adjacent.
    """
    limits = np.array([width, height])
    first = np.clip(np.rint(boxes[:, :2]), 0, limits - 1)
    last = np.clip(np.rint(boxes[:, :2] + boxes[:, 2:]), first + 1, limits)
    sides = np.concatenate([first, last - first], axis=1).astype(int)
    return [PixelBox(x, y, w, h) for x, y, w, h in sides.tolist()]


def _scored(output: RawOutput) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels and scores: one per category for a classifier, one per object for a detector."""
    if isinstance(output, ImageDetections):
        return output.labels, output.scores
    return np.arange(len(output)), output


def _thresholds(card: ModelCard, query: ImageQuery) -> NDArray[np.float64]:
    """The threshold of each category."""
    if query.score_threshold is None and (query.use_suggested_thresholds or card.kind is ModelKind.GENERIC_DETECTOR):
        return np.array(card.suggested_thresholds)
    return np.full(len(card.categories), query.score_threshold or 0.0)


def _chosen(
    labels: NDArray[np.int64], scores: NDArray[np.float32], thresholds: NDArray[np.float64], most: int
) -> NDArray[np.intp]:
    """The indices of what reaches its threshold."""
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] >= thresholds[labels[order]]][:most]
