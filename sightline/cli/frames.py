"""Objects drawn on an image: a frame in the category's colour, and a label that hides as little as possible."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

from PIL import Image, ImageDraw

from sightline.cli.lettering import font, legible

Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the upright image
Ink = tuple[int, int, int]
_Edges = tuple[float, float, float, float]  # left, top, right, bottom

# Colours that people with any colour blindness can distinguish: Okabe and Ito, "Color Universal Design", 2008.
INKS: tuple[Ink, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
DARK, LIGHT = (16, 18, 22), (255, 255, 255)
MAX_LABELS = 150  # nobody reads more
HIDDEN = 0.35  # a label that would hide more than this is shortened, or left out
DASH = 5  # length, in line widths


@dataclass(frozen=True, slots=True)
class Found:
    """An object: predicted, or, without a confidence, the ground truth."""

    name: str
    box: Box
    confidence: float | None = None  # 0..1


def inks_of(names: Iterable[str]) -> dict[str, Ink]:
    """A colour for each category.

    A name prefers the same colour in every image, and gets the next one if another of the names has that colour;
    names beyond the seventh share colours.
    """
    inks: dict[str, Ink] = {}
    for name in sorted(set(names)):
        preferred = crc32(name.encode())
        by_preference = [INKS[(preferred + step) % len(INKS)] for step in range(len(INKS))]
        taken = list(inks.values())
        inks[name] = min(by_preference, key=taken.count)
    return inks


def frame(image: Image.Image, found: Sequence[Found], inks: Mapping[str, Ink], truth: Sequence[Found] = ()) -> None:
    """Draws the objects, the most confident on top, and below them the ground truth, dashed in black and white.

    Boxes are in pixels of this image. A label that would hide another label or too much of an object is shortened to
    its confidence, or else left out: the colour shows the category too.
    """
    pen, line = ImageDraw.Draw(image), max(3, round(max(image.size) / 280))
    for true in truth:
        _dash(pen, _edges(true.box, image), line)
    by_confidence = sorted(found, key=lambda one: -(one.confidence or 0))
    edges = [_edges(one.box, image) for one in by_confidence]
    for one, box in reversed(list(zip(by_confidence, edges, strict=True))):
        _frame(pen, box, line, inks[one.name])
    labels: list[_Edges] = []
    size = max(13, max(image.size) / 48)
    for one, own in list(zip(by_confidence, edges, strict=True))[:MAX_LABELS]:
        for text in _texts(one):
            place, hidden = _best_place(_size(text, size), own, edges, labels, image.size)
            if hidden <= HIDDEN:
                _write(pen, place, text, size, inks[one.name])
                labels.append(place)
                break


def legend(width: int, entries: Sequence[tuple[str, Ink]], size: int) -> Image.Image:
    """A dark strip of this width with the words on their colours, in as many rows as needed."""
    gap = size // 2
    row, x, places = 0, gap, list[tuple[str, Ink, _Edges]]()
    high = round(_size("", size)[1])
    for words, ink in entries:
        text = fitting(words, size, width - 4 * gap)
        wide = _size(text, size)[0]
        if x > gap and x + wide > width - gap:
            row, x = row + 1, gap
        top = gap + row * (high + gap)
        places.append((text, ink, (x, top, x + wide, top + high)))
        x += round(wide) + gap
    strip = Image.new("RGB", (width, (row + 1) * (high + gap) + gap), DARK)
    pen = ImageDraw.Draw(strip)
    for text, ink, place in places:
        _write(pen, place, text, size, ink)
    return strip


def fitting(text: str, size: float, room: float) -> str:
    """The text as it can be drawn, truncated with an ellipsis if it is wider than the room at this size."""
    text = legible(text)
    letters = font(size, text)
    if letters.getlength(text) <= room:
        return text
    while text and letters.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


def on(ink: Ink) -> Ink:
    """The text colour that is legible on the ink."""
    red, green, blue = (((sample / 255) ** 2.2) for sample in ink)
    return DARK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else LIGHT


def overlap(one: _Edges, other: _Edges) -> float:
    """The area of the intersection."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def _edges(box: Box, image: Image.Image) -> _Edges:
    """The box's edges, clipped to the image, at least a pixel apart."""
    left, top = min(max(box[0], 0), image.width - 1), min(max(box[1], 0), image.height - 1)
    right, bottom = min(box[0] + box[2], image.width), min(box[1] + box[3], image.height)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _frame(pen: ImageDraw.ImageDraw, box: _Edges, line: int, ink: Ink) -> None:
    """A frame with a dark edge on either side, so that it shows on its own colour; thinner around small objects."""
    left, top, right, bottom = (round(edge) for edge in box)
    width = max(1, min(line, (right - left) // 8, (bottom - top) // 8))
    if width > 1:
        pen.rectangle((left - 1, top - 1, right, bottom), outline=DARK, width=width + 2)
    pen.rectangle((left, top, right - 1, bottom - 1), outline=ink, width=width)


def _dash(pen: ImageDraw.ImageDraw, box: _Edges, line: int) -> None:
    """A frame of alternately black and white dashes, which shows on every image and next to every colour."""
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = max(1, round(math.hypot(x1 - x0, y1 - y0) / (DASH * line)))
        for step in range(steps):
            start, end = step / steps, (step + 1) / steps
            dash = (x0 + (x1 - x0) * start, y0 + (y1 - y0) * start, x0 + (x1 - x0) * end, y0 + (y1 - y0) * end)
            pen.line(dash, fill=LIGHT if step % 2 else DARK, width=line)


def _texts(one: Found) -> tuple[str, ...]:
    """The possible texts of its label, the longest first."""
    name = legible(one.name)
    if one.confidence is None:
        return (name,)
    percent = f"{100 * one.confidence:.0f}"
    return (f"{name}  {percent} %", percent)


def _size(text: str, size: float) -> tuple[float, float]:
    """Width and height of a label with its margin; all labels have the same height."""
    height = font(size).getbbox("Ag")[3]
    return font(size, text).getlength(text) + 0.5 * height, 1.2 * height


def _best_place(
    size: tuple[float, float], own: _Edges, boxes: Sequence[_Edges], labels: Sequence[_Edges], within: tuple[int, int]
) -> tuple[_Edges, float]:
    """The place where the label hides least of other labels and of the objects, and how much it hides there.

    An object counts by its hidden share, so that a label may cover part of a large one but not of a small one.
    """
    best, least = (0.0, 0.0, 0.0, 0.0), math.inf
    for place in _places(size, own, within):
        area = size[0] * size[1]
        hidden = sum(4 * overlap(place, label) / area for label in labels)
        for box in boxes:
            if hidden >= least:
                break
            hidden += overlap(place, box) / ((box[2] - box[0]) * (box[3] - box[1]))
        if hidden < least:
            best, least = place, hidden
    return best, least


def _places(size: tuple[float, float], own: _Edges, within: tuple[int, int]) -> list[_Edges]:
    """Places above the box, below it, in its corners and next to it, each moved into the image."""
    (width, height), (left, top, right, bottom) = size, own
    corners = (
        (left, top - height),
        (right - width, top - height),
        (left, bottom),
        (right - width, bottom),
        (left, top),
        (right - width, top),
        (left, bottom - height),
        (right - width, bottom - height),
        (right, top),
        (left - width, top),
    )
    places: list[_Edges] = []
    for corner_x, corner_y in corners:
        x, y = max(0.0, min(corner_x, within[0] - width)), max(0.0, min(corner_y, within[1] - height))
        places.append((x, y, x + width, y + height))
    return places


def _write(pen: ImageDraw.ImageDraw, place: _Edges, text: str, size: float, ink: Ink) -> None:
    pen.rectangle(tuple(round(edge) for edge in place), fill=ink)
    middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
    pen.text(middle, text, fill=on(ink), font=font(size, text), anchor="mm")
