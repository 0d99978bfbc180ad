"""In which unit a file's boxes are written: pixels or fractions of the image's sides, never both."""

from collections import Counter

from services.dataset.boxes import read_box
from services.dataset.coco import CocoAnnotation, CocoFile
from services.dataset.domain import BoxConvention
from services.dataset.findings import FindingLog
from services.vision.decode import MAX_SIDE

EDGE = 1e-3  # how far a relative box may reach beyond 1 and still be one
SURELY_PIXELS = 2.0  # a value above this is none of a relative box, not even of one that reaches out of its image

_UNITS = {BoxConvention.ABSOLUTE: "pixels", BoxConvention.RELATIVE: "fractions of the image's sides"}


def check_convention(file: CocoFile, uri: str, expected: BoxConvention, log: FindingLog) -> BoxConvention:
    """In which unit the boxes are written; a fatal finding if it is not `expected`, or for each of a minority.

    A box whose largest value is above 2 is in pixels; one within 0..1 that is not made of whole numbers is relative;
    others, such as [0, 0, 1, 1], follow these. Boxes that are none at all say nothing.
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
                log.add("boxUnitsMixed", uri, mark.image_id, mark.id, box=mark.bbox, **words)
    return unit


def _unit(mark: CocoAnnotation) -> BoxConvention | None:
    """What the box alone says; UNKNOWN if that is nothing, None if it is no box."""
    box = read_box(mark.bbox)
    if isinstance(box, str) or box[2] <= 0 or box[3] <= 0:
        return None
    largest = max(map(abs, box))
    if SURELY_PIXELS < largest <= MAX_SIDE:
        return BoxConvention.ABSOLUTE
    if largest <= 1 + EDGE and any(value != int(value) for value in box):
        return BoxConvention.RELATIVE
    return BoxConvention.UNKNOWN
