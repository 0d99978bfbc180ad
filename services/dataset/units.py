"""Detects the unit of a file's boxes: pixels or fractions of the image's sides, never both."""

from collections import Counter

from services.dataset.coco import CocoAnnotation, CocoFile, box_of
from services.dataset.domain import BoxConvention
from services.dataset.findings import FindingLog
from services.vision.decode import MAX_SIDE

EDGE = 1e-3  # how far a relative box may extend beyond 1
SURELY_PIXELS = 2.0  # no relative box has a larger value, not even one that extends beyond its image

_UNITS = {BoxConvention.ABSOLUTE: "pixels", BoxConvention.RELATIVE: "fractions of the image's sides"}


def check_convention(file: CocoFile, uri: str, expected: BoxConvention, log: FindingLog) -> BoxConvention:
    """The unit of the file's boxes; a fatal finding if it is not `expected`, and for each box in the other unit.

    A box whose largest value is above 2 is in pixels; one within 0..1 with a value that is not a whole number is
    relative; others, such as [0, 0, 1, 1], follow the majority. Malformed boxes are ignored.
    """
    found = Counter(_unit(mark) for mark in file.annotations)
    pixels, fractions = found[BoxConvention.ABSOLUTE], found[BoxConvention.RELATIVE]
    if not pixels and not fractions and (expected is not BoxConvention.UNKNOWN or not found[BoxConvention.UNKNOWN]):
        return expected
    unit = BoxConvention.RELATIVE if fractions >= pixels else BoxConvention.ABSOLUTE
    if expected not in (BoxConvention.UNKNOWN, unit):
        log.add("boxUnitsDiffer", uri, found=_UNITS[unit], expected=_UNITS[expected])
        return expected
    if pixels and fractions:
        other = BoxConvention.ABSOLUTE if unit is BoxConvention.RELATIVE else BoxConvention.RELATIVE
        for mark in file.annotations:
            if _unit(mark) is other:
                words = {"found": _UNITS[other], "expected": _UNITS[unit]}
                log.add("boxUnitsMixed", uri, mark.image_id, mark.id, box=box_of(mark), **words)
    return unit


def _unit(mark: CocoAnnotation) -> BoxConvention | None:
    """The unit of a box on its own; UNKNOWN if it is ambiguous, None if the box is malformed."""
    box = box_of(mark)
    if box is None or isinstance(box, str) or box[2] <= 0 or box[3] <= 0:
        return None
    largest = max(map(abs, box))
    if SURELY_PIXELS < largest <= MAX_SIDE:
        return BoxConvention.ABSOLUTE
    if largest <= 1 + EDGE and any(value != int(value) for value in box):
        return BoxConvention.RELATIVE
    return BoxConvention.UNKNOWN
