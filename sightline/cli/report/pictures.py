"""Thumbnails with their boxes, as SVG with the image inside."""

from base64 import b64encode
from io import BytesIO

from PIL import Image

from sightline.client.results.samples import Sample
from sightline.images.mending import Source
from sightline.images.samples import loaded
from sightline.images.upright import mending, opened
from sightline.pages.markup import Markup, tag
from sightline.pages.style import series_colour

SIDE = 200  # pixels of the longer side


def picture(sample: Sample | None, categories: dict[str, int]) -> Markup:
    """The image with its boxes, each in the colour of its category's number; a note if it cannot be shown."""
    encoded = thumbnail(sample.image) if sample and sample.image else ""
    if sample is None or not encoded:
        return tag("div", "not shown", class_="missing")
    scale = SIDE / max(sample.width, sample.height)
    boxes = [
        tag(
            "rect",
            tag("title", box.category),
            x=f"{box.x:.1f}",
            y=f"{box.y:.1f}",
            width=f"{box.width:.1f}",
            height=f"{box.height:.1f}",
            fill="none",
            stroke=series_colour(categories.get(box.category, 0)),
            stroke_width=f"{2 / scale:.2f}",
        )
        for box in sample.boxes
    ]
    image = tag("image", href=f"data:image/jpeg;base64,{encoded}", width=sample.width, height=sample.height)
    shown = f"{max(1, sample.width * scale):.0f}", f"{max(1, sample.height * scale):.0f}"
    view = f"0 0 {sample.width} {sample.height}"
    return tag("svg", image, *boxes, viewBox=view, width=shown[0], height=shown[1], role="img")


def figure(sample: Sample | None, categories: dict[str, int], *caption: str) -> Markup:
    """The picture and what is said about it."""
    return tag("figure", picture(sample, categories), tag("figcaption", *caption))


def thumbnail(data: bytes) -> str:
    """A small JPEG of the image in base64; empty if it cannot be read."""
    try:
        small = mending(data, _small)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    small.thumbnail((2 * SIDE, 2 * SIDE))
    out = BytesIO()
    small.save(out, "JPEG", quality=80)
    return b64encode(out.getvalue()).decode()


def _small(image: Image.Image, source: Source) -> Image.Image:
    image.draft("RGB", (2 * SIDE, 2 * SIDE))
    return loaded(image, lambda: opened(source.data)).rgb()
