"""Regions that a detector contradicts although it was not trained on their images.

An object that was found with confidence where there is no region has probably been forgotten. Where one of its category
overlaps it only a little, that region was probably drawn badly; where one of another category is in its place, that
region was probably labelled wrongly. A region that was not found is no evidence: the detector may be at fault.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.trainer.engine.data import Indices
from services.trainer.engine.detection.data import Scenes
from services.trainer.insight import MAX_DOUBTS, Doubt, DoubtKind
from services.vision.detection_matching import DetectionTable
from services.vision.snapshot import Box

SURE = 0.5  # confidence of an object, at least; its category's threshold if that is higher
IN_PLACE = 0.5  # IoU from which an object and a region are in the same place
NEAR = 0.1  # IoU below which they have nothing to do with each other
INSIDE = 0.9  # share of an object's area: one that lies within a region or a crowd may be a part of it

Floats = NDArray[np.float64]


def doubts(scenes: Scenes, rows: Indices, answers: DetectionTable, thresholds: Sequence[float]) -> tuple[Doubt, ...]:
    """The regions in doubt in these images, at most MAX_DOUBTS: those that the surest objects contradict come first."""
    sure = answers.scores >= np.maximum(np.array(thresholds, np.float32), SURE)[answers.categories]
    found: list[Doubt] = []
    for place, row in enumerate(rows.tolist()):
        own = np.flatnonzero(sure & (answers.images == place))
        record = scenes.samples[row].record
        categories, boxes = answers.categories[own], answers.boxes[own].astype(np.float64)
        for each, (kind, region) in _judged(categories, boxes, record.boxes).items():
            x, y, width, height = boxes[each].tolist()
            found.append(
                Doubt(
                    image_id=record.image_id,
                    file_name=record.file_name,
                    kind=kind,
                    category=scenes.categories[int(categories[each])],
                    box=(x, y, width, height),
                    confidence=float(answers.scores[own[each]]),
                    labelled=scenes.categories[region.category] if region else "",
                    region=(region.x, region.y, region.w, region.h) if region else None,
                )
            )
    return tuple(sorted(found, key=lambda doubt: -doubt.confidence)[:MAX_DOUBTS])


def _judged(
    categories: NDArray[np.integer[Any]], boxes: Floats, regions: Sequence[Box]
) -> dict[int, tuple[DoubtKind, Box | None]]:
    """By object: what is in doubt about the regions at its place, and which of them."""
    if not regions:
        return dict.fromkeys(range(len(boxes)), (DoubtKind.MISSING, None))
    iou, inside = _overlaps(boxes, np.array([(one.x, one.y, one.w, one.h) for one in regions]))
    labels, crowds = np.array([one.category for one in regions]), np.array([one.iscrowd for one in regions])
    same = (categories[:, None] == labels) & ~crowds
    taken = (same & (iou >= IN_PLACE)).any(axis=0)  # regions that are found where they are drawn
    verdicts: dict[int, tuple[DoubtKind, Box | None]] = {}
    for each in range(len(boxes)):
        own, other = iou[each] * same[each], iou[each] * (~same[each] & ~crowds)
        if own.max() >= IN_PLACE:
            continue
        if other.max() >= IN_PLACE:
            verdicts[each] = DoubtKind.CATEGORY, regions[int(other.argmax())]
        elif own.max() >= NEAR and not taken[own.argmax()]:
            verdicts[each] = DoubtKind.MISPLACED, regions[int(own.argmax())]
        elif iou[each].max() < NEAR and (inside[each] < INSIDE).all():
            verdicts[each] = DoubtKind.MISSING, None
    return verdicts


def _overlaps(boxes: Floats, regions: Floats) -> tuple[Floats, Floats]:
    """[boxes, regions]: the IoU, and the share of each box that is within each region."""
    start, end = np.maximum(boxes[:, None, :2], regions[:, :2]), boxes[:, None, :2] + boxes[:, None, 2:]
    sides = (np.minimum(end, regions[:, :2] + regions[:, 2:]) - start).clip(min=0)
    shared, own, others = sides.prod(axis=2), boxes[:, 2:].prod(axis=1)[:, None], regions[:, 2:].prod(axis=1)
    return shared / np.maximum(own + others - shared, 1e-9), shared / np.maximum(own, 1e-9)
