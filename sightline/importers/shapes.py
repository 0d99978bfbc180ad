"""Boxes around outlines."""

from collections.abc import Iterable, Sequence
from math import cos, hypot, radians, sin
from typing import Any

from sightline.importers.model import Xywh, number_of

# Notes.
OUTLINES = "turned into upright boxes: {count:outline|outlines}"
KEYPOINTS = "the keypoints of {count:object|objects} are left out"

Point = tuple[float, float]


def around(points: Iterable[Point]) -> Xywh | None:
    """The smallest box around the points; None without any."""
    listed = list(points)
    if not listed:
        return None
    left, top = min(x for x, _ in listed), min(y for _, y in listed)
    return left, top, max(x for x, _ in listed) - left, max(y for _, y in listed) - top


def points_of(value: object) -> list[Point]:
    """The pairs of numbers in a JSON array, without what is none."""
    pairs: list[Any] = list(value) if isinstance(value, list) else []
    numbers = [[number_of(one) for one in pair] for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    return [(x, y) for x, y in numbers if x is not None and y is not None]


def pairs_of(value: object) -> list[Point]:
    """The points whose x and y a JSON array has in turn; none if one of these is no number or missing."""
    listed: list[Any] = list(value) if isinstance(value, list) else []
    numbers = [number for one in listed if (number := number_of(one)) is not None]
    whole = len(numbers) == len(listed) and len(numbers) % 2 == 0
    return list(zip(numbers[::2], numbers[1::2], strict=True)) if whole else []


def four_of(value: object) -> Xywh | None:
    """The four numbers in a JSON array; None if it has others, or something else."""
    points = pairs_of(value)
    return (*points[0], *points[1]) if len(points) == 2 else None


def within(x: float, y: float, across: float, down: float, degrees: float = 0.0) -> Xywh:
    """The box around an ellipse with this centre and these radii, turned about the centre."""
    sine, cosine = sin(radians(degrees)), cos(radians(degrees))
    half_width, half_height = hypot(across * cosine, down * sine), hypot(across * sine, down * cosine)
    return x - half_width, y - half_height, 2 * half_width, 2 * half_height


def turned(box: Xywh, degrees: float, pivot: Point) -> list[Point]:
    """The corners of a box turned clockwise about the pivot; x and y must have the same unit."""
    x, y, width, height = box
    sine, cosine = sin(radians(degrees)), cos(radians(degrees))
    corners: Sequence[Point] = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    return [
        (
            pivot[0] + (a - pivot[0]) * cosine - (b - pivot[1]) * sine,
            pivot[1] + (a - pivot[0]) * sine + (b - pivot[1]) * cosine,
        )
        for a, b in corners
    ]
