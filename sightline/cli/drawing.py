"""Drawings of predictions: the image with its tags or objects."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from sightline.cli.frames import Found, Ink, fitting, frame, inks_of, legend
from sightline.cli.lettering import font
from sightline.client.results.kinds import ModelKind
from sightline.client.results.prediction import Prediction
from sightline.images.upright import upright

STRIP = (16, 18, 22)
INK = (255, 255, 255)
RIGHT = (20, 128, 66)
MIN_SIDE = 320  # pixels; a smaller image is enlarged, so that the text fits
MAX_SIDE = 2400  # pixels; a larger one is scaled down, so that the drawing fits on a screen
MAX_TAGS = 3


def found_in(prediction: Prediction) -> list[Found]:
    """The objects of a prediction, in its order; none for a classifier's."""
    return [
        Found(one.name, (one.box.x, one.box.y, one.box.width, one.box.height), one.confidence)
        for one in prediction.objects
    ]


def draw(file: Path, prediction: Prediction, inks: Mapping[str, Ink] | None = None) -> Image.Image:
    """The image with its best tags, or with its objects framed and counted; `inks` keeps colours across drawings."""
    if prediction.kind == ModelKind.DETECTOR:
        return draw_objects(file, found_in(prediction), inks=inks)
    image, _ = _readable(upright(file))
    tags = [(tag.name, tag.confidence) for tag in prediction.tags]
    return _with_tags(image, tags[:MAX_TAGS]) if tags else image


def draw_objects(
    file: Path, found: Sequence[Found], truth: Sequence[Found] = (), inks: Mapping[str, Ink] | None = None
) -> Image.Image:
    """The image with its objects framed and the ground truth dashed, above the number of objects in each category."""
    inks = inks or inks_of(one.name for one in found)
    image, scale = _readable(upright(file))
    frame(image, scaled(found, scale), inks, scaled(truth, scale))
    entries = [(f"{count} {name}", inks[name]) for name, count in Counter(one.name for one in found).most_common()]
    strip = legend(max(image.width, MIN_SIDE), entries or [("nothing found", STRIP)], max(18, image.width // 48))
    whole = Image.new("RGB", (strip.width, image.height + strip.height), STRIP)
    whole.paste(image, ((whole.width - image.width) // 2, 0))
    whole.paste(strip, (0, image.height))
    return whole


def _readable(image: Image.Image) -> tuple[Image.Image, float]:
    """The image at a size where text fits and all of it is visible, and the scale factor."""
    scale = min(max(1.0, MIN_SIDE / min(image.size)), MAX_SIDE / max(image.size))
    return (image, 1.0) if scale == 1 else (image.resize(times(image.size, scale), Image.Resampling.LANCZOS), scale)


def times(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """The width and height, scaled, at least one pixel each."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scaled(objects: Sequence[Found], scale: float) -> list[Found]:
    """The objects with their boxes scaled."""
    return [
        Found(o.name, (o.box[0] * scale, o.box[1] * scale, o.box[2] * scale, o.box[3] * scale), o.confidence)
        for o in objects
    ]


def _with_tags(image: Image.Image, tags: Sequence[tuple[str, float]]) -> Image.Image:
    """The image above a strip with a line per tag: a bar as long as the confidence, the name, the percentage."""
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
        shown = fitting(name, size, room)
        pen.text((pad, middle), shown, fill=INK, font=font(size, shown), anchor="lm")
        pen.text((image.width - pad, middle), number_text, fill=INK, font=font(size), anchor="rm")
    return framed
