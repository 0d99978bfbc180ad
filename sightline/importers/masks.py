"""Boxes around the outlines and masks of COCO's `segmentation`."""

from collections.abc import Iterator
from typing import Any

from sightline.importers.model import mapping, number_of
from sightline.importers.shapes import Xywh, around, pairs_of


def around_segmentation(value: object) -> Xywh | None:
    """The smallest box around polygons or a run-length encoded mask; None if it is neither, empty or damaged."""
    if isinstance(value, list):
        return _around_polygons(value)
    found = mapping(value)
    counts, size = found.get("counts"), found.get("size")
    sides: list[Any] = list(size) if isinstance(size, list) else []
    height = number_of(sides[0]) if sides else None
    if not height or not isinstance(counts, str | list):
        return None
    try:
        return _around_runs(list(_unpacked(counts) if isinstance(counts, str) else map(int, counts)), int(height))
    except (TypeError, ValueError, IndexError, ArithmeticError):
        return None


def _around_polygons(value: list[Any]) -> Xywh | None:
    """The box around all of them, of which a single one may stand without its list; None if one is damaged."""
    listed: list[Any] = value if all(isinstance(one, list) for one in value) else [value]
    outlines = [pairs_of(polygon) for polygon in listed if polygon]
    return around(point for outline in outlines for point in outline) if all(outlines) else None


def _around_runs(runs: list[int], height: int) -> Xywh | None:
    """`runs` are the lengths of stretches outside and inside the mask, in turn, column by column from the top.

    ValueError if there cannot be such a mask.
    """
    if height < 1 or min(runs, default=0) < 0:
        raise ValueError("a mask has rows, and no stretch of it is shorter than nothing")
    place, left, right, top, bottom = 0, None, 0, height, 0
    for number, length in enumerate(runs):
        if number % 2 and length:
            first, last = divmod(place, height), divmod(place + length - 1, height)
            left = first[0] if left is None else left
            right = last[0]
            whole = first[0] != last[0]  # it goes on at the top of the next column
            top = min(top, 0 if whole else first[1])
            bottom = max(bottom, height - 1 if whole else last[1])
        place += length
    return None if left is None else (left, top, right - left + 1, bottom - top + 1)


def _unpacked(text: str) -> Iterator[int]:
    """The runs of COCO's compressed form: six bits a character; from the fourth on, what is added to the last but one.

    IndexError if the text is cut off.
    """
    place, earlier = 0, [0, 0]
    for number in range(len(text)):
        if place >= len(text):
            return
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[place]) - 48
            place += 1
            value |= (bits & 0x1F) << shift
            shift += 5
            more = bool(bits & 0x20)
            if not more and bits & 0x10:
                value -= 1 << shift
        value += earlier[0] if number > 2 else 0
        earlier = [earlier[1], value]
        yield value
