"""Which bytes of an image are packed: its own if every decoder reads them alike, else an upright re-encoding."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.vision.decode import SCALED_SIDE, ImageInfo, decode
from services.vision.fingerprint import Fingerprint, fingerprint

_EXTENSIONS = {"JPEG": "jpg", "PNG": "png"}
_LOSSLESS = {"PNG", "GIF", "BMP", "ICO", "TIFF"}


@dataclass(frozen=True, slots=True)
class PackImage:
    """An image as a pack holds it: an upright, still JPEG or PNG of at most 10,240 pixels per side."""

    data: bytes
    extension: str  # "jpg" or "png"
    width: int
    height: int
    reencoded: bool
    fingerprint: Fingerprint


def encode_for_pack(
    data: bytes, info: ImageInfo, pixels: NDArray[np.uint8] | None = None, name: str = "image"
) -> PackImage:
    """The same bytes if they are a still, upright JPEG or PNG that is not too large; else a re-encoding.

    Every image is decoded, unless the caller passes its `pixels`, so that the result can be trained on; raises as
    `decode` does. A lossless source stays lossless (PNG) unless it is scaled; everything else becomes JPEG of quality
    95 without chroma subsampling. The same input gives the same bytes.
    """
    pixels = decode(data, name=name) if pixels is None else pixels
    height, width = pixels.shape[:2]
    looks = fingerprint(pixels)
    scaled = max(info.width, info.height) > SCALED_SIDE
    if info.format in _EXTENSIONS and info.orientation == 1 and not info.animated and not scaled:
        return PackImage(data, _EXTENSIONS[info.format], width, height, False, looks)
    out = BytesIO()
    if info.format in _LOSSLESS and not scaled:
        Image.fromarray(pixels).save(out, "PNG", compress_level=4)
        return PackImage(out.getvalue(), "png", width, height, True, looks)
    Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
    return PackImage(out.getvalue(), "jpg", width, height, True, looks)
