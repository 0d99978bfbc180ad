"""Boxes: from the numbers in an annotation file to pixels of the packed, upright image."""

from dataclasses import dataclass
from typing import cast

from sightline.importers.model import exact_number_of
from sightline.plurals import counted

Xywh = tuple[float, float, float, float]  # x, y, width, height
EDGE = 1e-3  # fraction of a side by which a box may stick out without a finding
KEPT = 0.5  # fraction of its area: a box with less inside the image is an error, with more it is clipped
DETECTOR_SIDE = 640  # pixels: the largest common detectors scale an image's longer side down to this
TINY = 4  # pixels at that scale: half a cell of the finest detection grid

_KINDS: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    type(None): "null",
    list: "an array",
    dict: "an object",
}


def read_box(bbox: object) -> Xywh | str:
    """The four numbers of a bbox, which may be written as strings, or a description of what is wrong with it."""
    if not isinstance(bbox, list):
        return f"is {_KINDS.get(type(bbox), 'a number')}"
    values = cast("list[object]", bbox)
    if len(values) != 4:
        return f"has {counted(len(values), 'value')}"
    numbers: list[float] = []
    for value in values:
        number = exact_number_of(value)
        if number is None and isinstance(value, int | float) and not isinstance(value, bool):
            return "has a number that is too large"
        if number is None:
            return f"has {_KINDS.get(type(value), 'a value that is not a number')} among its values"
        numbers.append(float(number))
    x, y, w, h = numbers
    return x, y, w, h


@dataclass(frozen=True, slots=True)
class Frame:
    """The width and height, in pixels, that boxes refer to."""

    width: float
    height: float

    def __str__(self) -> str:
        return f"{self.width:g} x {self.height:g}"

    def holds(self, box: Xywh) -> bool:
        """Whether the box lies inside, within the tolerance at the edge."""
        x, y, w, h = box
        dx, dy = EDGE * self.width, EDGE * self.height
        return x >= -dx and y >= -dy and x + w <= self.width + dx and y + h <= self.height + dy

    def clipped(self, box: Xywh) -> Xywh:
        """The part of the box that lies inside; its area may be 0."""
        x, y, w, h = box
        left, top = min(max(x, 0.0), self.width), min(max(y, 0.0), self.height)
        right, bottom = max(min(x + w, self.width), left), max(min(y + h, self.height), top)
        return left, top, right - left, bottom - top

    def overhang(self, box: Xywh) -> float:
        """How many pixels the box sticks out, at the side where it does most; 0 if it lies inside."""
        x, y, w, h = box
        return max(-x, -y, x + w - self.width, y + h - self.height, 0.0)

    def scaled_side(self, box: Xywh) -> float:
        """The shorter side of a box in pixels, once the image is scaled down for a detector."""
        return min(box[2], box[3]) * min(1.0, DETECTOR_SIDE / max(self.width, self.height))

    @property
    def swapped(self) -> "Frame":
        """The frame with width and height exchanged."""
        return Frame(self.height, self.width)


def finding_code(box: Xywh, frame: Frame) -> str:
    """The code of the finding about a box in pixels: "" if it is fine, "boxClipped" if it can be clipped and kept."""
    _, _, w, h = box
    if w <= 0 or h <= 0:
        return "boxEmpty"
    _, _, inside_w, inside_h = frame.clipped(box)
    if inside_w > 0 and inside_h > 0:
        if frame.holds(box):
            return ""
        if inside_w * inside_h >= KEPT * w * h and not _is_corners(box, frame):
            return "boxClipped"
    if frame.swapped.holds(box):
        return "boxSidesSwapped"
    return "boxAsCorners" if _is_corners(box, frame) else "boxOutOfFrame"


def _is_corners(box: Xywh, frame: Frame) -> bool:
    """Whether the four numbers make sense only as two opposite corners."""
    x, y, w, h = box
    return not frame.holds(box) and frame.holds((x, y, w - x, h - y)) and x > 0 and y > 0 and w > x and h > y


def scaled(box: Xywh, across: float, down: float) -> Xywh:
    """The box with its x-values multiplied by `across` and its y-values by `down`."""
    x, y, w, h = box
    return x * across, y * down, w * across, h * down


def turned(box: Xywh, orientation: int, frame: Frame) -> Xywh:
    """Where a box drawn on the image as stored, of size `frame`, lies after applying EXIF orientation 1..8."""
    x, y, w, h = box
    left, top, right, bottom = x, y, frame.width - x - w, frame.height - y - h
    match orientation:
        case 2:
            return right, top, w, h
        case 3:
            return right, bottom, w, h
        case 4:
            return left, bottom, w, h
        case 5:
            return top, left, h, w
        case 6:
            return bottom, left, h, w
        case 7:
            return bottom, right, h, w
        case 8:
            return top, right, h, w
        case _:
            return box
