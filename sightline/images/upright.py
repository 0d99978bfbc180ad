"""The first image in a file as upright RGB: the rules for orientation, transparency and 16-bit samples.

The services decode by these rules within their limits (services/vision/decode.py), drawing without limits.
Colour profiles are ignored, as they were when the pretrained networks were trained.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import ExifTags, Image

from sightline.images import libtiff
from sightline.images.faults import Note
from sightline.images.mending import Source, is_damage, mended
from sightline.images.samples import loaded
from sightline.images.tiff import MARKS, refuse_camera_raw

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "ICO", "TIFF", "MPO")
MAX_SIDE = 16_000  # pixels

_OPENED = tuple(format_ for format_ in FORMATS if format_ != "MPO")  # Pillow opens MPO as JPEG, then detects it
_UPRIGHT = (0, 1)  # 0 is no orientation, but what many cameras write if they know none
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(file: Path) -> Image.Image:
    """The first image in mode RGB, upright; raises what Pillow raises, and Unusable."""

    def work(image: Image.Image, source: Source) -> Image.Image:
        turn = turn_of(image, orientation_of(image))
        samples = loaded(image, lambda: opened(source.data))
        source.notes(image)
        pixels = samples.rgb()
        return pixels if turn is None else pixels.transpose(turn)

    return mending(file.read_bytes(), work)


def mending(data: bytes, work: Callable[[Image.Image, Source], T]) -> T:
    """What `work` makes of the opened image: of a mended copy, if it raises what damaged files do.

    If none can be read, raises what the file itself raised.
    """
    source, first = Source.of(data), None
    while True:
        try:
            with opened(source.data) as image:
                return work(image, source)
        except Exception as fault:  # noqa: BLE001 - Pillow's plugins raise a dozen types on hostile bytes
            first = first or fault.with_traceback(None)  # whose frames would keep the image in memory
            more = mended(source, fault)
            if more is None:
                raise (first if is_damage(fault) else fault) from None
            source = more


@contextmanager
def opened(data: bytes) -> Generator[Image.Image]:
    """The image with its header read; images up to MAX_SIDE pass Pillow's pixel limit (179 million by default).

    Unusable for a camera raw file. Takes bytes, not a path: Pillow memory-maps an uncompressed TIFF file, and skews it
    if it has to be rotated.
    """
    refuse_camera_raw(data)
    libtiff.silence()
    Image.MAX_IMAGE_PIXELS = MAX_SIDE * MAX_SIDE
    with Image.open(BytesIO(data), formats=_OPENED) as image:
        yield image


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation; 1 if there is none or it cannot be read: a broken tag is no reason to refuse an image."""
    return oriented(image)[0]


def oriented(image: Image.Image) -> tuple[int, tuple[Note, ...]]:
    """The EXIF orientation as `orientation_of`, and why it is not the one that is written there."""
    try:
        # The base class's method: that of a PNG would decode every pixel to see whether EXIF follows them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow's plugins raise a dozen types on hostile bytes
        value = 1
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    if exif and not exif.startswith(MARKS):
        return 1, (Note("imageMetadataIgnored", {"parts": "EXIF"}),)
    if isinstance(value, int) and (value in _TURNS or value in _UPRIGHT):
        return value or 1, ()
    return 1, (Note("imageOrientationInvalid", {"value": f"{value!r:.40}"}),)


def turn_of(image: Image.Image, orientation: int) -> Image.Transpose | None:
    """What makes the loaded pixels upright; None if they already are. Pillow rotates a TIFF itself as it loads."""
    return None if image.format == "TIFF" else _TURNS.get(orientation)
