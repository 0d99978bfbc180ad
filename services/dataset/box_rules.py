"""Findings about an image's boxes beside each other, once they are in pixels: doubled, contradictory, or all of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.dataset.findings import FindingLog
from services.dataset.rows import Mark, Row
from services.vision.snapshot import Box

DOUBLED = 0.8  # IoU of two boxes of one category from which they are probably one object annotated twice
SAME_PLACE = 0.9  # IoU of two boxes of different categories from which one of the categories is probably wrong
COVERING = 0.95  # share of the image's area
BORDER = 1.0  # pixels


def note_boxes(
    row: Row, boxes: Sequence[tuple[Mark, Box]], size: tuple[int, int], categories: Sequence[str], log: FindingLog
) -> None:
    """Adds findings; crowds may overlap and cover whatever they like."""
    plain = [(mark, box) for mark, box in boxes if not box.iscrowd]
    for mark, box in plain:
        if box.w * box.h >= COVERING * size[0] * size[1]:
            log.add("boxCoversImage", row.file, row.id, mark.id, category=categories[box.category])
    if len(plain) < 2:
        return
    overlap = overlaps(np.array([(box.x, box.y, box.w, box.h) for _, box in plain]))
    for one, other in zip(*(each.tolist() for each in np.nonzero(np.triu(overlap >= DOUBLED, 1))), strict=True):
        (first, earlier), (second, later) = plain[one], plain[other]
        names = {"category": categories[later.category], "other_category": categories[earlier.category]}
        if earlier.category == later.category:
            log.add("boxDoubled", row.file, row.id, second.id, first=first.id, overlap=overlap[one, other], **names)
        elif overlap[one, other] >= SAME_PLACE:
            log.add("boxCategoriesDiffer", row.file, row.id, second.id, first=first.id, **names)


def overlaps(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[boxes, boxes]: the IoU of boxes [n, 4], given as x, y, width, height."""
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    sides = np.minimum(end[:, None], end) - np.maximum(start[:, None], start)
    shared = sides.clip(min=0).prod(axis=2)
    area = boxes[:, 2] * boxes[:, 3]
    return shared / np.maximum(area[:, None] + area - shared, np.finfo(np.float64).tiny)


def at_border(box: Box, width: int, height: int) -> bool:
    """Whether the box ends at a side of the image, so that its object may be cut off."""
    nearest = min(box.x, box.y, width - box.x - box.w, height - box.y - box.h)
    return nearest <= BORDER and not box.iscrowd
