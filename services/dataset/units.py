"""Detects the unit of a file's boxes: pixels or fractions of the image's sides, never both."""

from collections import Counter

import numpy as np

from services.dataset.columns import Columns, Floats, Index, Mask
from services.dataset.domain import BoxConvention
from services.dataset.findings import FindingLog
from services.vision.decode import MAX_SIDE

EDGE = 1e-3  # how far a relative box may extend beyond 1
SURELY_PIXELS = 2.0  # no relative box has a larger value, not even one that extends beyond its image

_UNITS = {BoxConvention.ABSOLUTE: "pixels", BoxConvention.RELATIVE: "fractions of the image's sides"}


def check_convention(file: Columns, uri: str, expected: BoxConvention, log: FindingLog) -> BoxConvention:
    """The unit of the file's boxes; a fatal finding if it is not `expected`, and for each box in the other unit.

    A box whose largest value is above 2 is in pixels; one within 0..1 with a value that is not a whole number is
    relative; others, such as [0, 0, 1, 1], follow the majority. Malformed boxes are ignored.
    """
    found = Counter[BoxConvention]()
    for boxes in file.box_batches():
        found.update({unit: int(mask.sum()) for unit, mask in _units(boxes).items()})
    pixels, fractions = found[BoxConvention.ABSOLUTE], found[BoxConvention.RELATIVE]
    if not pixels and not fractions and (expected is not BoxConvention.UNKNOWN or not found[BoxConvention.UNKNOWN]):
        return expected
    unit = BoxConvention.RELATIVE if fractions >= pixels else BoxConvention.ABSOLUTE
    if expected not in (BoxConvention.UNKNOWN, unit):
        log.add("boxUnitsDiffer", uri, found=_UNITS[unit], expected=_UNITS[expected])
        return expected
    if pixels and fractions:
        other = BoxConvention.ABSOLUTE if unit is BoxConvention.RELATIVE else BoxConvention.RELATIVE
        words = {"found": _UNITS[other], "expected": _UNITS[unit]}
        mixed = np.flatnonzero(np.concatenate([_units(boxes)[other] for boxes in file.box_batches()]))
        images = Index(file.ids).find(file.image_ids[mixed])
        for position, image in zip(mixed.tolist(), images.tolist(), strict=True):
            name = file.names[image] if image >= 0 else uri
            where = name, int(file.image_ids[position]), file.mark_id(position)
            log.add("boxUnitsMixed", *where, box=tuple(file.boxes[position].tolist()), **words)
    return unit


def _units(boxes: Floats) -> dict[BoxConvention, Mask]:
    """Which boxes are in which unit, judged one by one; UNKNOWN is either. Malformed ones are in none."""
    sized = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    largest = np.abs(boxes).max(axis=1)
    pixels = sized & (largest > SURELY_PIXELS) & (largest <= MAX_SIDE)
    fractions = sized & (largest <= 1 + EDGE) & (boxes != np.trunc(boxes)).any(axis=1)
    return {
        BoxConvention.ABSOLUTE: pixels,
        BoxConvention.RELATIVE: fractions,
        BoxConvention.UNKNOWN: sized & ~pixels & ~fractions,
    }
