"""Judges from all boxes of a file whether their four numbers are [x, y, width, height].

A box read in the wrong way often leaves its image, one read in the right way hardly ever does. Another reading is
likely if it explains boxes that leave the image as [x, y, width, height], and hardly any that do not leave it as that
leave it when read so. In a right file it is the other way round: objects near the left and top edges contradict the
other reading as often as those near the right and bottom edges would support it in a wrong file.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from services.dataset.boxes import Frame, Xywh
from services.dataset.coco import CocoFile, box_of
from services.dataset.domain import BoxConvention
from services.dataset.findings import FindingLog

SLACK = 0.01  # fraction of the image's sides by which a box may stick out: annotators draw over the edge
SUPPORT = 5  # boxes that only the other reading explains
SHARE_SUPPORT = 4, 0.3  # or this many, if they are this share of all
SAMPLE = 20_000  # boxes that are judged
CONTRADICTED = 0.1  # boxes that only [x, y, width, height] explains, at most, as a share of the support


@dataclass(frozen=True, slots=True)
class Reading:
    """Another meaning of a box's four numbers."""

    code: str  # of the finding
    to_xywh: Callable[[Xywh, Frame], Xywh]


READINGS = (
    Reading(
        "boxesLikeCorners",
        lambda box, _: (box[0], box[1], box[2] - box[0], box[3] - box[1]),
    ),
    Reading(
        "boxesLikeCentres",
        lambda box, _: (box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3]),
    ),
    Reading(
        "boxesFromBottom",
        lambda box, frame: (box[0], frame.height - box[1], box[2], box[3]),
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the boxes look like, and the numbers behind that."""

    reading: Reading
    support: int  # boxes that fit their image only in this reading
    contradicted: int  # boxes that fit it only as [x, y, width, height]
    total: int


def check_reading(file: CocoFile, uri: str, unit: BoxConvention, log: FindingLog) -> None:
    """A fatal finding if the file's boxes point away from [x, y, width, height]; images of unknown size are ignored."""
    verdict = judge(_sample(file, unit))
    if verdict is not None:
        numbers = {"support": verdict.support, "contradicted": verdict.contradicted, "total": verdict.total}
        log.add(verdict.reading.code, uri, **numbers)


def _sample(file: CocoFile, unit: BoxConvention) -> Iterator[tuple[Xywh, Frame]]:
    """Up to SAMPLE boxes, spread over the file, with the frame that they refer to."""
    whole = Frame(1.0, 1.0) if unit is BoxConvention.RELATIVE else None
    frames = {image.id: Frame(image.width, image.height) for image in file.images if image.width and image.height}
    for mark in file.annotations[:: max(1, -(-len(file.annotations) // SAMPLE))]:
        frame = whole or frames.get(mark.image_id)
        box = box_of(mark)
        if frame and isinstance(box, tuple) and not mark.iscrowd:
            yield box, frame


def judge(boxes: Iterable[tuple[Xywh, Frame]]) -> Verdict | None:
    """The reading that the boxes point to; None if they do not clearly point away from [x, y, width, height].

    A box that fits its image with width and height exchanged counts as fitting, because the file may have been written
    before the image was turned upright.
    """
    support, against, total = [0] * len(READINGS), [0] * len(READINGS), 0
    for box, frame in boxes:
        total += 1
        kept = _fits(box, frame) or _fits(box, frame.swapped)
        for number, reading in enumerate(READINGS):
            other = _fits(reading.to_xywh(box, frame), frame)
            support[number] += other and not kept
            against[number] += kept and not other
    found = [
        Verdict(reading, for_it, against_it, total)
        for reading, for_it, against_it in zip(READINGS, support, against, strict=True)
        if _clear(for_it, against_it, total)
    ]
    return max(found, key=lambda verdict: verdict.support - verdict.contradicted, default=None)


def _clear(support: int, against: int, total: int) -> bool:
    few, share = SHARE_SUPPORT
    enough = support >= SUPPORT or (support >= few and support >= share * total)
    return enough and against <= CONTRADICTED * support


def _fits(box: Xywh, frame: Frame) -> bool:
    x, y, w, h = box
    dx, dy = SLACK * frame.width, SLACK * frame.height
    return w > 0 and h > 0 and x >= -dx and y >= -dy and x + w <= frame.width + dx and y + h <= frame.height + dy
