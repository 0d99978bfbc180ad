"""From a detector network's candidates to its detections: suppression within each category. No torch."""

import numpy as np
from numpy.typing import NDArray

from services.vision.card import Suppression
from services.vision.image_detections import ImageDetections
from services.vision.letterbox import Letterbox

CONTENDERS = 10  # candidates that take part in suppression, per box returned at most

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def suppressed(boxes: Floats, scores: Floats, frame: Letterbox, rule: Suppression) -> ImageDetections:
    """One image's candidates, boxes [k, 1 or categories, 4] in input pixels and scores [k, categories].

    Of boxes of a category that overlap, the best stays; boxes are clipped to the image.
    """
    boxes, scores, labels = _contenders(boxes, scores, rule)
    boxes = frame.to_image(boxes)
    boxes = np.clip(boxes, 0, np.array([frame.width, frame.height] * 2, np.float32))
    real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    order = np.argsort(-scores[real], kind="stable")
    boxes, scores, labels = boxes[real][order], scores[real][order], labels[real][order]
    kept = _survivors(boxes.astype(np.float64), labels, rule)
    boxes = boxes[kept]
    boxes[:, 2:] -= boxes[:, :2]
    return ImageDetections(boxes, scores[kept], labels[kept])


def _contenders(boxes: Floats, scores: Floats, rule: Suppression) -> tuple[Floats, Floats, Labels]:
    """The best candidates as boxes [m, 4], scores [m] and labels [m]."""
    limit = CONTENDERS * rule.most
    surest = scores.max(axis=1, initial=0)
    kept = np.flatnonzero(surest >= rule.least_score)
    if len(kept) > limit:  # these rows contain the best candidates, and rows x categories stays small
        kept = kept[np.argsort(-surest[kept], kind="stable")[:limit]]
    boxes, scores = boxes[kept], scores[kept]
    rows, labels = np.nonzero(scores >= rule.least_score)
    chosen = scores[rows, labels]
    if len(chosen) > limit:
        best = np.argsort(-chosen, kind="stable")[:limit]
        rows, labels, chosen = rows[best], labels[best], chosen[best]
    return boxes[rows, labels if boxes.shape[1] > 1 else 0], chosen, labels


def _survivors(boxes: NDArray[np.float64], labels: Labels, rule: Suppression) -> list[int]:
    """The indices that stay, of boxes [m, 4] by falling score."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    waiting = np.ones(len(boxes), bool)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not waiting[index]:
            continue
        kept.append(index)
        if len(kept) == rule.most:
            break
        rivals = index + 1 + np.flatnonzero(waiting[index + 1 :] & (labels[index + 1 :] == labels[index]))
        sides = np.minimum(boxes[index, 2:], boxes[rivals, 2:]) - np.maximum(boxes[index, :2], boxes[rivals, :2])
        shared = sides.clip(min=0).prod(axis=1)
        waiting[rivals[shared > rule.iou * (areas[index] + areas[rivals] - shared)]] = False
    return kept
