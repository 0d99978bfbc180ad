"""Which bytes of an image are packed: its own if every decoder reads them alike, else an upright re-encoding."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from services.vision.decode import SCALED_SIDE, ImageInfo, read
from services.vision.fingerprint import Fingerprint, fingerprint
from services.vision.image_quality import quality_notes
from sightline.images.faults import Note

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
    notes: tuple[Note, ...] = ()


def encode_for_pack(data: bytes, info: ImageInfo, name: str = "image") -> PackImage:
    """The same bytes if they are a still, upright JPEG or PNG that is not too large; else a re-encoding.

    Every image is decoded, so that the result can be trained on; raises as `decode` does. A damaged file that can be
    read counts as its mended copy. A lossless source stays lossless (PNG) unless it is scaled; everything else becomes
    JPEG of quality 95 without chroma subsampling. The same input gives the same bytes.
    """
    reading = read(data, name=name)
    pixels, notes = reading.pixels, reading.notes + quality_notes(reading.pixels)
    height, width = pixels.shape[:2]
    looks = fingerprint(pixels)
    scaled = max(info.width, info.height) > SCALED_SIDE
    plain = info.orientation == 1 and not info.animated and not scaled and reading.as_elsewhere
    if info.format in _EXTENSIONS and plain:
        changed = reading.data is not data
        return PackImage(reading.data, _EXTENSIONS[info.format], width, height, changed, looks, notes)
    out = BytesIO()
    if info.format in _LOSSLESS and not scaled:
        Image.fromarray(pixels).save(out, "PNG", compress_level=4)
        return PackImage(out.getvalue(), "png", width, height, True, looks, notes)
    Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
    return PackImage(out.getvalue(), "jpg", width, height, True, looks, notes)
