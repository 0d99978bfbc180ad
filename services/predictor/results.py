"""What the predictor answers: the tags or the objects that reach their threshold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.predictor.domain import DEFAULT_MAX_RESULTS, ImageQuery, Seen
from services.vision.card import ModelCard, ModelKind
from services.vision.detections import Detections


@dataclass(frozen=True, slots=True)
class Tag:
    """A category and the model's confidence in it: a classifier's is calibrated, a detector's its network's score."""

    name: str
    confidence: float  # 0..1


@dataclass(frozen=True, slots=True)
class Box:
    """Whole pixels of the upright image, at least one each way, none outside."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True, slots=True)
class Object:
    """One thing in an image: where it is, and what."""

    box: Box
    tag: Tag


@dataclass(frozen=True, slots=True)
class Tags:
    """What a classifier sees, the most confident first."""

    values: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class Objects:
    """What a detector sees, the most confident first."""

    values: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a model sees in an image of so many pixels, upright."""

    model_version: str
    width: int
    height: int
    result: Tags | Objects


def result_of(card: ModelCard, seen: Seen, width: int, height: int, query: ImageQuery) -> Tags | Objects:
    """What reaches the query's threshold, by falling confidence, at most as many as it wants.

    Without a threshold a classifier returns every category, so that its first tag is its decision; a detector applies
    the suggested thresholds, as it scores hundreds of boxes in any image. Equal confidences come in the model's order.
    """
    labels, scores = _scored(seen)
    chosen = _chosen(labels, scores, _thresholds(card, query), query.max_results or DEFAULT_MAX_RESULTS)
    tags = [Tag(card.categories[labels[index]].name, float(scores[index])) for index in chosen]
    if not isinstance(seen, Detections):
        return Tags(tuple(tags))
    boxes = whole_pixels(seen.boxes[chosen], width, height)
    return Objects(tuple(Object(box, tag) for box, tag in zip(boxes, tags, strict=True)))


def whole_pixels(boxes: NDArray[np.float32], width: int, height: int) -> list[Box]:
    """Boxes [n, 4] of left, top, width, height in whole pixels of an image of that size.

    The edges are rounded, not the sizes: neighbours that touch go on touching.
    """
    limits = np.array([width, height])
    first = np.clip(np.rint(boxes[:, :2]), 0, limits - 1)
    last = np.clip(np.rint(boxes[:, :2] + boxes[:, 2:]), first + 1, limits)
    sides = np.concatenate([first, last - first], axis=1).astype(int)
    return [Box(x, y, w, h) for x, y, w, h in sides.tolist()]


def _scored(seen: Seen) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Categories and their scores: each once, or one for each object."""
    if isinstance(seen, Detections):
        return seen.labels, seen.scores
    return np.arange(len(seen)), seen


def _thresholds(card: ModelCard, query: ImageQuery) -> NDArray[np.float64]:
    """Of each category."""
    if query.score_threshold is None and (query.use_suggested_thresholds or card.kind is ModelKind.GENERIC_DETECTOR):
        return np.array(card.suggested_thresholds)
    return np.full(len(card.categories), query.score_threshold or 0.0)


def _chosen(
    labels: NDArray[np.int64], scores: NDArray[np.float32], thresholds: NDArray[np.float64], most: int
) -> NDArray[np.intp]:
    """The positions of what reaches its threshold."""
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] >= thresholds[labels[order]]][:most]
