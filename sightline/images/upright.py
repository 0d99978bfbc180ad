"""The first image in a file as upright RGB: the rules for orientation, transparency and 16-bit samples.

The services decode by these rules within their limits (services/vision/decode.py), drawing without limits.
Colour profiles are ignored, as they were when the pretrained networks were trained.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image

from sightline.images import libtiff

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "ICO", "TIFF", "MPO")
MAX_SIDE = 16_000  # pixels

_OPENED = tuple(format_ for format_ in FORMATS if format_ != "MPO")  # Pillow opens MPO as JPEG, then detects it
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(ValueError):
    """An image that decodes but cannot be converted to RGB unambiguously; the message is a predicate."""


def upright(file: Path) -> Image.Image:
    """The first image in mode RGB, upright; raises what Pillow raises, and Unusable."""
    with opened(file.read_bytes()) as image:
        turn = turn_of(image)
        image.load()
        pixels = flattened(image)
        return pixels if turn is None else pixels.transpose(turn)


@contextmanager
def opened(data: bytes) -> Generator[Image.Image]:
    """The image with its header read; images up to MAX_SIDE pass Pillow's pixel limit (179 million by default).

    Takes bytes, not a path: Pillow memory-maps an uncompressed TIFF file, and skews it if it has to be rotated.
    """
    libtiff.silence()
    Image.MAX_IMAGE_PIXELS = MAX_SIDE * MAX_SIDE
    with Image.open(BytesIO(data), formats=_OPENED) as image:
        yield image


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation; 1 if there is none or it cannot be read: a broken tag is no reason to refuse an image."""
    try:
        # The base class's method: that of a PNG would decode every pixel to see whether EXIF follows them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow's plugins raise a dozen types on hostile bytes
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What makes the loaded pixels upright; None if they already are. Pillow rotates a TIFF itself as it loads."""
    return None if image.format == "TIFF" else _TURNS.get(orientation_of(image))


def flattened(image: Image.Image) -> Image.Image:
    """The image in mode RGB: transparency over white, 16-bit samples by their high byte; Unusable for 32 bits."""
    if image.mode.startswith("I;16"):
        return Image.frombytes("L", image.size, image.tobytes()[_high_byte(image.mode) :: 2]).convert("RGB")
    if image.mode in ("I", "F"):
        raise Unusable("has samples of 32 bits, which have no agreed white; save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_byte(mode: str) -> int:
    """Which byte of a 16-bit sample is the high one."""
    big = mode == "I;16B" or (mode == "I;16N" and sys.byteorder == "big")
    return 0 if big else 1
