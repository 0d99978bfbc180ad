"""Pictures of predictions: what a model saw, written legibly on the image."""

import ctypes
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from sightline.frames import Box, Found, Ink, fitting, font, frame, inks_of, legend, overlap
from sightline.v1.prediction_pb2 import AnalyzeImageResponse

STRIP = (16, 18, 22)
INK = (255, 255, 255)
RIGHT = (20, 128, 66)
WRONG = (200, 38, 40)
PAPER = (246, 247, 249)
MIN_SIDE = 320  # pixels; a smaller image is enlarged, so that the words fit
MAX_SIDE = 2400  # pixels; a larger one is scaled down, so that the picture can be looked at
MAX_TAGS = 3
SAME_OBJECT = 0.5  # intersection over union from which on a box is where the true one is


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of a contact sheet, with what was predicted and what is true."""

    file: Path
    predicted: str
    confidence: float
    truth: str


@dataclass(frozen=True, slots=True)
class ObjectsCell:
    """One image of a sheet of objects, with what was found in it and what is there."""

    file: Path
    found: Sequence[Found]
    truth: Sequence[Found] = ()


def upright(file: Path) -> Image.Image:
    """The first frame of an image file, turned as its EXIF orientation says, in RGB."""
    _silence_libtiff()
    with Image.open(file) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


@cache
def _silence_libtiff() -> None:
    """Keeps what libtiff prints of a damaged file out of the output, as services/vision/libtiff.py does."""
    with suppress(OSError, AttributeError):  # Pillow's libtiff cannot be reached, as in a static build
        library = ctypes.CDLL(Image.core.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def found_in(answer: AnalyzeImageResponse) -> list[Found]:
    """The objects of an answer, in its order; none for a classifier's."""
    found: list[Found] = []
    for one in answer.custom_model_result.objects_result.values:
        box, tag = one.bounding_box, one.tags[0]
        found.append(Found(tag.name, (box.x, box.y, box.w, box.h), tag.confidence))
    return found


def draw(file: Path, answer: AnalyzeImageResponse, inks: Mapping[str, Ink] | None = None) -> Image.Image:
    """The image with its best tags, or with its objects framed and counted; `inks` is for pictures that go together."""
    if answer.custom_model_result.HasField("objects_result"):
        return draw_objects(file, found_in(answer), inks=inks)
    image, _ = _readable(upright(file))
    tags = [(tag.name, tag.confidence) for tag in answer.custom_model_result.tags_result.values]
    return _with_tags(image, tags[:MAX_TAGS]) if tags else image


def draw_objects(
    file: Path, found: Sequence[Found], truth: Sequence[Found] = (), inks: Mapping[str, Ink] | None = None
) -> Image.Image:
    """The image with its objects framed, what is true dashed, and below it how many there are of each category."""
    inks = inks or inks_of(one.name for one in found)
    image, scale = _readable(upright(file))
    frame(image, _scaled(found, scale), inks, _scaled(truth, scale))
    entries = [(f"{count} {name}", inks[name]) for name, count in Counter(one.name for one in found).most_common()]
    strip = legend(max(image.width, MIN_SIDE), entries or [("nothing found", STRIP)], max(18, image.width // 48))
    whole = Image.new("RGB", (strip.width, image.height + strip.height), STRIP)
    whole.paste(image, ((whole.width - image.width) // 2, 0))
    whole.paste(strip, (0, image.height))
    return whole


def contact_sheet(cells: Sequence[Cell], title: str, columns: int = 6, side: int = 150) -> Image.Image:
    """A grid of images, framed green where the prediction is the truth and red where not, with both written below."""
    rows = -(-len(cells) // columns)
    gap, head, foot = 14, 56, 50
    width, height = gap + columns * (side + gap), head + rows * (side + foot + gap) + gap // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, 16), fitting(title, font(22), width - 2 * gap), fill=STRIP, font=font(22))
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        _draw_cell(sheet, cell, gap + column * (side + gap), head + row * (side + foot + gap), side)
    return sheet


def objects_sheet(cells: Sequence[ObjectsCell], title: str, columns: int = 3, side: int = 400) -> Image.Image:
    """A grid of images with their objects framed and their true objects dashed; below, how many of these were found."""
    inks = inks_of(one.name for cell in cells for one in cell.found)
    images = [_with_objects(cell, inks, side) for cell in cells]
    rows = [list(zip(cells, images, strict=True))[first : first + columns] for first in range(0, len(cells), columns)]
    gap, head, foot, words = 16, 60, 26, font(16)
    width = gap + columns * (side + gap)
    key = legend(width, [*inks.items(), ("dashed: what people marked", STRIP)], 20)
    heights = [max(image.height for _, image in row) + foot + gap for row in rows]
    sheet = Image.new("RGB", (width, head + key.height + gap + sum(heights)), PAPER)
    sheet.paste(key, (0, head))
    pen, y = ImageDraw.Draw(sheet), head + key.height + gap
    pen.text((gap, 18), fitting(title, font(24), width - 2 * gap), fill=STRIP, font=font(24))
    for row, height in zip(rows, heights, strict=True):
        for column, (cell, image) in enumerate(row):
            x, below = gap + column * (side + gap), y + height - foot - gap
            sheet.paste(image, (x + (side - image.width) // 2, below - image.height))
            text, good = _verdict(cell)
            pen.text((x, below + 3), fitting(text, words, side), fill=RIGHT if good else WRONG, font=words)
        y += height
    return sheet


def matches(found: Sequence[Found], truth: Sequence[Found]) -> int:
    """How many of the true objects were found: by a box of the same name at the same place, the surest first."""
    left = list(truth)
    for one in sorted(found, key=lambda one: -(one.confidence or 0)):
        same = [true for true in left if true.name == one.name and _iou(one.box, true.box) >= SAME_OBJECT]
        if same:
            left.remove(max(same, key=lambda true: _iou(one.box, true.box)))
    return len(truth) - len(left)


def _with_objects(cell: ObjectsCell, inks: Mapping[str, Ink], side: int) -> Image.Image:
    """The cell's image within a square of that side, framed."""
    image = upright(cell.file)
    scale = side / max(image.size)
    image = image.resize(_times(image.size, scale), Image.Resampling.LANCZOS)
    frame(image, _scaled(cell.found, scale), inks, _scaled(cell.truth, scale))
    return image


def _verdict(cell: ObjectsCell) -> tuple[str, bool]:
    right = matches(cell.found, cell.truth)
    wrong = len(cell.found) - right
    found = f"{right} of {len(cell.truth)} found" if cell.truth else "nothing to find"
    return found + (f", {wrong} wrong" if wrong else ""), right == len(cell.truth) and not wrong


def _iou(one: Box, other: Box) -> float:
    shared = overlap(*((x, y, x + width, y + height) for x, y, width, height in (one, other)))
    return shared / (one[2] * one[3] + other[2] * other[3] - shared) if shared else 0.0


def _readable(image: Image.Image) -> tuple[Image.Image, float]:
    """The image at a size at which words fit and the whole can be seen, and how many times as large that is."""
    scale = min(max(1.0, MIN_SIDE / min(image.size)), MAX_SIDE / max(image.size))
    return (image, 1.0) if scale == 1 else (image.resize(_times(image.size, scale), Image.Resampling.LANCZOS), scale)


def _times(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scaled(objects: Sequence[Found], scale: float) -> list[Found]:
    return [
        Found(o.name, (o.box[0] * scale, o.box[1] * scale, o.box[2] * scale, o.box[3] * scale), o.confidence)
        for o in objects
    ]


def _draw_cell(sheet: Image.Image, cell: Cell, x: int, y: int, side: int) -> None:
    pen, good = ImageDraw.Draw(sheet), cell.predicted == cell.truth
    ink = RIGHT if good else WRONG
    pen.rounded_rectangle((x - 5, y - 5, x + side + 4, y + side + 47), radius=6, fill=ink)
    picture = ImageOps.fit(upright(cell.file), (side, side), Image.Resampling.BICUBIC)
    sheet.paste(picture, (x, y))
    percent = f"{100 * cell.confidence:.0f} %"
    room = side - font(15).getlength(percent) - 10
    pen.text((x, y + side + 4), fitting(cell.predicted, font(20), room), fill=INK, font=font(20))
    pen.text((x + side, y + side + 8), percent, fill=INK, font=font(15), anchor="ra")
    below = "as labelled" if good else f"labelled {cell.truth}"
    pen.text((x, y + side + 27), fitting(below, font(13), side), fill=INK, font=font(13))


def _with_tags(image: Image.Image, tags: Sequence[tuple[str, float]]) -> Image.Image:
    """The image above a strip with a line per tag: a bar as long as the confidence, the name, the number."""
    size = max(18, image.width // 24)
    line, pad = round(size * 1.5), size // 2
    framed = Image.new("RGB", (image.width, image.height + len(tags) * line + pad), STRIP)
    framed.paste(image, (0, 0))
    pen = ImageDraw.Draw(framed)
    for number, (name, confidence) in enumerate(tags):
        top = image.height + pad // 2 + number * line
        bar = (0, top + 2, round(confidence * image.width), top + line - 2)
        pen.rectangle(bar, fill=RIGHT if number == 0 else (70, 76, 86))
        number_text, middle = f"{100 * confidence:.1f} %", top + line // 2
        room = image.width - 2 * pad - font(size).getlength(number_text) - pad
        pen.text((pad, middle), fitting(name, font(size), room), fill=INK, font=font(size), anchor="lm")
        pen.text((image.width - pad, middle), number_text, fill=INK, font=font(size), anchor="rm")
    return framed
