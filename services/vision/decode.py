"""Decodes image files into upright RGB pixels, within limits, by the rules of `sightline.images.upright`.

Needs no torch, so that ingest, training and serving can share it.
"""

import math
import struct
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.kit.errors import InvalidImage, InvalidImageFormat, InvalidImageSize
from services.vision.unreadable import problem_of
from sightline.images.faults import Note
from sightline.images.mending import Source
from sightline.images.samples import Samples, loaded
from sightline.images.upright import MAX_SIDE, mending, opened, orientation_of, oriented, turn_of

MIN_SIDE = 50  # pixels
SCALED_SIDE = 10_240  # pixels; a longer side is scaled down to this
MAX_ICON_SIDE = 1_024  # pixels; icons are decoded on opening, and normally have 256 at most
GIANT_PIXELS = 64_000_000  # larger images are decoded one at a time: 16,000 x 16,000 RGB takes 1 GB in Pillow
STRIP_PIXELS = 8_000_000  # converted at a time, so that a giant image needs little more than its own bytes

_SHRINKING = {"JPEG", "MPO"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_giant_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image's header.

    `width` and `height` are those of the upright image, before any scaling; `stored_width` and `stored_height` are
    those in the file. `animated` means that there are more frames after the first, which are ignored.
    """

    format: str  # one of FORMATS
    width: int
    height: int
    orientation: int  # EXIF, 1..8
    stored_width: int
    stored_height: int
    animated: bool


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """An image's pixels, the bytes that gave them (the file's, or those of a mended copy), and what was noticed.

    `as_elsewhere` means that other programs decode these bytes to the same image.
    """

    pixels: NDArray[np.uint8]
    data: bytes
    notes: tuple[Note, ...]
    as_elsewhere: bool


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An image as networks need it: its header, and its upright pixels for each `at_least`."""

    info: ImageInfo
    pixels: Mapping[int, NDArray[np.uint8]]


def decode_sizes(data: bytes, sizes: Iterable[int], name: str = "image", *, min_side: int = MIN_SIDE) -> Decoded:
    """The image for each `at_least` in `sizes`; raises as `decode` does.

    Sizes for which it is decoded at the same scale share the pixels.
    """
    info = inspect(data, name, min_side=min_side)
    pixels: dict[int, NDArray[np.uint8]] = {}
    by_scale: dict[int, NDArray[np.uint8]] = {}
    for size in sizes:
        scale = shrunk(info.width, info.height, size) if info.format in _SHRINKING else 1
        if scale not in by_scale:
            by_scale[scale] = decode(data, name=name, at_least=size)
        pixels[size] = by_scale[scale]
    return Decoded(info, pixels)


def shrunk(width: int, height: int, at_least: int) -> int:
    """By how much a JPEG is decoded smaller: 8, 4, 2 or 1."""
    most = min(width, height) // max(1, at_least)
    return next((factor for factor in (8, 4, 2) if factor <= most), 1)


def inspect(data: bytes, name: str = "image", *, min_side: int = MIN_SIDE) -> ImageInfo:
    """Reads the header without decoding pixels, except those of an icon.

    Raises InvalidImageFormat unless it is one of the eight formats, InvalidImageSize unless both sides are within
    `min_side`..16,000.
    """
    with _faults(data, name):
        info = mending(data, lambda image, _: _info_of(image, orientation_of(image)))
    _require_sides(info, name, min_side)
    return info


def decode(data: bytes, *, name: str = "image", at_least: int | None = None) -> NDArray[np.uint8]:
    """The first frame as uint8 [height, width, 3] RGB: upright, composited on white, scaled down to SCALED_SIDE.

    With `at_least`, a JPEG may be decoded smaller by 2, 4 or 8 (which is many times faster) as long as its shorter side
    is at least `at_least`; training and serving must pass the same value. Sixteen-bit samples keep their high byte, or
    the upper eight of the bits that they use. Raises InvalidImageSize for a side above 16,000, and
    InvalidImageFormat, with its cause, for bytes that are not an image, truncated or broken beyond mending.
    """
    return read(data, name=name, at_least=at_least).pixels


def read(data: bytes, *, name: str = "image", at_least: int | None = None) -> Reading:
    """As `decode`, with what was noticed."""

    def work(image: Image.Image, source: Source) -> Reading:
        orientation, notes = oriented(image)
        _require_sides(_info_of(image, orientation), name, smallest=1)
        turn = turn_of(image, orientation)
        giant = image.width * image.height > GIANT_PIXELS  # as stored: a progressive JPEG shrinks only after its scans
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        with _giant_turn if giant else nullcontext():
            samples = loaded(image, lambda: opened(source.data))
            notes += source.notes(image) + samples.notes
            pixels = _rgb(samples, _scaled(samples.image.size))
        pixels = pixels if turn is None else _turned(pixels, turn)
        return Reading(pixels, source.data, notes, as_elsewhere=not samples.notes)

    with _faults(data, name):
        return mending(data, work)


def _turned(pixels: NDArray[np.uint8], turn: Image.Transpose) -> NDArray[np.uint8]:
    """As `Image.transpose`, without its two copies of four bytes for each pixel."""
    match turn:
        case Image.Transpose.FLIP_LEFT_RIGHT:
            turned = pixels[:, ::-1]
        case Image.Transpose.FLIP_TOP_BOTTOM:
            turned = pixels[::-1]
        case Image.Transpose.TRANSPOSE:
            turned = pixels.swapaxes(0, 1)
        case Image.Transpose.TRANSVERSE:
            turned = pixels[::-1, ::-1].swapaxes(0, 1)
        case _:
            quarters = {Image.Transpose.ROTATE_90: 1, Image.Transpose.ROTATE_180: 2, Image.Transpose.ROTATE_270: 3}
            turned = np.rot90(pixels, quarters[turn])
    return np.ascontiguousarray(turned)


@contextmanager
def _faults(data: bytes, name: str) -> Generator[None]:
    """Whatever Pillow raises in the block becomes an InvalidImage error, and so does an icon that is too large."""
    try:
        _require_small_icon(data, name)
        yield
    except InvalidImage:
        raise
    except Image.DecompressionBombError as fault:
        raise InvalidImageSize(file=name, problem=f"has a side above {MAX_SIDE} pixels; scale it down") from fault
    except Exception as fault:  # Pillow's plugins raise a dozen types for hostile bytes
        raise InvalidImageFormat(file=name, problem=problem_of(data, fault)) from fault


def _info_of(image: Image.Image, orientation: int) -> ImageInfo:
    width, height = image.size
    across = orientation >= 5
    if across and image.format == "TIFF":  # Pillow reports a TIFF's size as upright.
        stored_width, stored_height = height, width
    else:
        stored_width, stored_height = width, height
        width, height = (height, width) if across else (width, height)
    return ImageInfo(
        format=image.format or "",
        width=width,
        height=height,
        orientation=orientation,
        stored_width=stored_width,
        stored_height=stored_height,
        animated=_animated(image),
    )


def _animated(image: Image.Image) -> bool:
    """An MPO's further frames are previews or the other eye, not an animation."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - the first frame may be sound and the second not
        return False


def _require_sides(info: ImageInfo, name: str, smallest: int) -> None:
    if smallest <= min(info.width, info.height) and max(info.width, info.height) <= MAX_SIDE:
        return
    problem = f"is {info.width} x {info.height} pixels; each side must be {smallest} to {MAX_SIDE} pixels"
    raise InvalidImageSize(file=name, problem=problem)


def _require_small_icon(data: bytes, name: str) -> None:
    """Checks an icon's sizes before Pillow, which decodes the largest image as soon as it opens the file."""
    if data[:4] != b"\0\0\1\0":
        return
    (count,) = struct.unpack_from("<H", data, 4)
    for entry in range(count):
        (offset,) = struct.unpack_from("<I", data, 6 + 16 * entry + 12)
        if data[offset : offset + 8] == _PNG_SIGNATURE:
            width, height = struct.unpack_from(">II", data, offset + 16)
        else:
            width, height = struct.unpack_from("<ii", data, offset + 4)
            width, height = abs(width), abs(height) // 2  # colours, then as many rows of mask
        if max(width, height) > MAX_ICON_SIDE:
            problem = f"holds an icon of {width} x {height} pixels; an icon's side must be {MAX_ICON_SIDE} at most"
            raise InvalidImageSize(file=name, problem=problem)


def _scaled(size: tuple[int, int]) -> tuple[int, int]:
    longer = max(size)
    if longer <= SCALED_SIDE:
        return size
    return max(1, round(size[0] * SCALED_SIDE / longer)), max(1, round(size[1] * SCALED_SIDE / longer))


def _rgb(samples: Samples, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The loaded image as RGB pixels of `size`, strip by strip; strips overlap, so that no seam shows."""
    image, (width, height) = samples.image, size
    ratio = image.height / height
    margin = 2 * math.ceil(ratio) + 2
    rows = max(1, STRIP_PIXELS // image.width)
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first = max(0, math.floor(top * ratio) - margin) if ratio != 1 else top
        last = min(image.height, math.ceil(bottom * ratio) + margin) if ratio != 1 else bottom
        whole = first == 0 and last == image.height
        piece = samples.rgb(None if whole else (0, first, image.width, last))
        if size != image.size:
            box = (0.0, top * ratio - first, float(image.width), min(bottom * ratio - first, float(piece.height)))
            piece = piece.resize((width, bottom - top), Image.Resampling.BILINEAR, box=box)
        out[top:bottom] = np.asarray(piece)
    return out
