"""Pictures of predictions: what a model saw, written legibly on the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sightline.v1.prediction_pb2 import AnalyzeImageResponse

Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the upright image
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

STRIP = (16, 18, 22)
INK = (255, 255, 255)
RIGHT = (20, 128, 66)
WRONG = (200, 38, 40)
PAPER = (246, 247, 249)
BOX_INKS = ((255, 184, 0), (0, 190, 255), (255, 92, 138), (120, 220, 90), (190, 140, 255))
MIN_SIDE = 320  # a smaller image is enlarged, so that the words fit
MAX_TAGS = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of a contact sheet, with what was predicted and what is true."""

    file: Path
    predicted: str
    confidence: float
    truth: str


def upright(file: Path) -> Image.Image:
    """The first frame of an image file, turned as its EXIF orientation says, in RGB."""
    with Image.open(file) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def draw(file: Path, answer: AnalyzeImageResponse) -> Image.Image:
    """The image with its best tags on a dark strip below it, and with its objects framed."""
    image = upright(file)
    scale = max(1.0, MIN_SIDE / min(image.size))
    if scale > 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    tags = [(tag.name, tag.confidence) for tag in answer.custom_model_result.tags_result.values]
    _frame_objects(image, answer, scale)
    return _with_strip(image, tags[:MAX_TAGS]) if tags else image


def contact_sheet(cells: Sequence[Cell], title: str, columns: int = 6, side: int = 150) -> Image.Image:
    """A grid of images, framed green where the prediction is the truth and red where not, with both written below."""
    rows = -(-len(cells) // columns)
    gap, head, foot = 14, 56, 50
    width, height = gap + columns * (side + gap), head + rows * (side + foot + gap) + gap // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, 16), _fitting(title, font(22), width - 2 * gap), fill=STRIP, font=font(22))
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        _draw_cell(sheet, cell, gap + column * (side + gap), head + row * (side + foot + gap), side)
    return sheet


def font(size: float) -> Font:
    """Pillow's own scalable font, which needs no file of this machine."""
    return ImageFont.load_default(size)


def _draw_cell(sheet: Image.Image, cell: Cell, x: int, y: int, side: int) -> None:
    pen, good = ImageDraw.Draw(sheet), cell.predicted == cell.truth
    ink = RIGHT if good else WRONG
    pen.rounded_rectangle((x - 5, y - 5, x + side + 4, y + side + 47), radius=6, fill=ink)
    picture = ImageOps.fit(upright(cell.file), (side, side), Image.Resampling.BICUBIC)
    sheet.paste(picture, (x, y))
    percent = f"{100 * cell.confidence:.0f} %"
    room = side - font(15).getlength(percent) - 10
    pen.text((x, y + side + 4), _fitting(cell.predicted, font(20), room), fill=INK, font=font(20))
    pen.text((x + side, y + side + 8), percent, fill=INK, font=font(15), anchor="ra")
    below = "as labelled" if good else f"labelled {cell.truth}"
    pen.text((x, y + side + 27), _fitting(below, font(13), side), fill=INK, font=font(13))


def _with_strip(image: Image.Image, tags: Sequence[tuple[str, float]]) -> Image.Image:
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
        pen.text((pad, middle), _fitting(name, font(size), room), fill=INK, font=font(size), anchor="lm")
        pen.text((image.width - pad, middle), number_text, fill=INK, font=font(size), anchor="rm")
    return framed


def _frame_objects(image: Image.Image, answer: AnalyzeImageResponse, scale: float) -> None:
    """A frame around each object, its tag on a strip of the frame's colour."""
    pen, size = ImageDraw.Draw(image), max(14, image.width // 40)
    for number, found in enumerate(answer.custom_model_result.objects_result.values):
        ink = BOX_INKS[number % len(BOX_INKS)]
        box = found.bounding_box
        left, top, right, bottom = (round(v * scale) for v in (box.x, box.y, box.x + box.w, box.y + box.h))
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=ink, width=max(2, size // 7))
        tag = found.tags[0] if found.tags else None
        text = f"{tag.name} {100 * tag.confidence:.0f} %" if tag else found.id
        text_box = pen.textbbox((left, max(0, top - size - 4)), text, font=font(size))
        pen.rectangle((text_box[0] - 2, text_box[1] - 2, text_box[2] + 2, text_box[3] + 2), fill=ink)
        pen.text((left, max(0, top - size - 4)), text, fill=STRIP, font=font(size))


def _fitting(text: str, letters: Font, room: float) -> str:
    """The text, cut with an ellipsis where it is longer than the room."""
    if letters.getlength(text) <= room:
        return text
    while text and letters.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"
