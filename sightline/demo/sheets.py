"""Sheets of many images, each with the model's prediction and whether it is correct."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from sightline.cli.drawing import INK, RIGHT, STRIP, scaled, times
from sightline.cli.frames import Box, Found, Ink, fitting, frame, inks_of, legend, overlap
from sightline.cli.lettering import font
from sightline.images.upright import upright

WRONG = (200, 38, 40)
PAPER = (246, 247, 249)
SAME_OBJECT = 0.5  # the least intersection over union of a predicted and a true box of the same object


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of a contact sheet, with the prediction and the truth."""

    file: Path
    predicted: str
    confidence: float
    truth: str


@dataclass(frozen=True, slots=True)
class ObjectsCell:
    """One image of a sheet of objects, with the predicted and the true objects."""

    file: Path
    found: Sequence[Found]
    truth: Sequence[Found] = ()


def contact_sheet(cells: Sequence[Cell], title: str, columns: int = 6, side: int = 150) -> Image.Image:
    """A grid of images, framed in green if the prediction is correct and in red if not, with both written below."""
    rows = -(-len(cells) // columns)
    gap, head, foot = 14, 56, 50
    width, height = gap + columns * (side + gap), head + rows * (side + foot + gap) + gap // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (gap, 16), title, 22, width - 2 * gap, STRIP)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        _draw_cell(sheet, cell, gap + column * (side + gap), head + row * (side + foot + gap), side)
    return sheet


def objects_sheet(cells: Sequence[ObjectsCell], title: str, columns: int = 3, side: int = 400) -> Image.Image:
    """A grid of images with predicted objects framed, true ones dashed, and how many of these were found below each."""
    inks = inks_of(one.name for cell in cells for one in cell.found)
    images = [_with_objects(cell, inks, side) for cell in cells]
    rows = [list(zip(cells, images, strict=True))[first : first + columns] for first in range(0, len(cells), columns)]
    gap, head, foot = 16, 60, 26
    width = gap + columns * (side + gap)
    key = legend(width, [*inks.items(), ("dashed: ground truth", STRIP)], 20)
    heights = [max(image.height for _, image in row) + foot + gap for row in rows]
    sheet = Image.new("RGB", (width, head + key.height + gap + sum(heights)), PAPER)
    sheet.paste(key, (0, head))
    pen, y = ImageDraw.Draw(sheet), head + key.height + gap
    _write(pen, (gap, 18), title, 24, width - 2 * gap, STRIP)
    for row, height in zip(rows, heights, strict=True):
        for column, (cell, image) in enumerate(row):
            x, below = gap + column * (side + gap), y + height - foot - gap
            sheet.paste(image, (x + (side - image.width) // 2, below - image.height))
            text, good = _verdict(cell)
            _write(pen, (x, below + 3), text, 16, side, RIGHT if good else WRONG)
        y += height
    return sheet


def matches(found: Sequence[Found], truth: Sequence[Found]) -> int:
    """How many true objects were found: by a box with the same name in the same place, the most confident first."""
    left = list(truth)
    for one in sorted(found, key=lambda one: -(one.confidence or 0)):
        same = [true for true in left if true.name == one.name and _iou(one.box, true.box) >= SAME_OBJECT]
        if same:
            left.remove(max(same, key=lambda true: _iou(one.box, true.box)))
    return len(truth) - len(left)


def _with_objects(cell: ObjectsCell, inks: Mapping[str, Ink], side: int) -> Image.Image:
    """The cell's image, scaled to fit a square of this side, with its objects."""
    image = upright(cell.file)
    scale = side / max(image.size)
    image = image.resize(times(image.size, scale), Image.Resampling.LANCZOS)
    frame(image, scaled(cell.found, scale), inks, scaled(cell.truth, scale))
    return image


def _verdict(cell: ObjectsCell) -> tuple[str, bool]:
    right = matches(cell.found, cell.truth)
    wrong = len(cell.found) - right
    found = f"{right} of {len(cell.truth)} found" if cell.truth else "nothing to find"
    return found + (f", {wrong} wrong" if wrong else ""), right == len(cell.truth) and not wrong


def _iou(one: Box, other: Box) -> float:
    shared = overlap(*((x, y, x + width, y + height) for x, y, width, height in (one, other)))
    return shared / (one[2] * one[3] + other[2] * other[3] - shared) if shared else 0.0


def _draw_cell(sheet: Image.Image, cell: Cell, x: int, y: int, side: int) -> None:
    pen, good = ImageDraw.Draw(sheet), cell.predicted == cell.truth
    ink = RIGHT if good else WRONG
    pen.rounded_rectangle((x - 5, y - 5, x + side + 4, y + side + 47), radius=6, fill=ink)
    image = ImageOps.fit(upright(cell.file), (side, side), Image.Resampling.BICUBIC)
    sheet.paste(image, (x, y))
    percent = f"{100 * cell.confidence:.0f} %"
    room = side - font(15).getlength(percent) - 10
    _write(pen, (x, y + side + 4), cell.predicted, 20, room, INK)
    pen.text((x + side, y + side + 8), percent, fill=INK, font=font(15), anchor="ra")
    below = "as labelled" if good else f"labelled {cell.truth}"
    _write(pen, (x, y + side + 27), below, 13, side, INK)


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, room: float, ink: Ink) -> None:
    shown = fitting(text, size, room)
    pen.text(place, shown, fill=ink, font=font(size, shown))
