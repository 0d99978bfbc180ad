"""What an image's samples mean, judged over the whole image: how deep they are, and which bands count."""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageFile, TiffImagePlugin

from sightline.images.faults import Note, Unusable

DEPTHS = (8, 10, 12, 14)  # bits of samples that are stored in 16: the fewest that hold the largest sample

_SAMPLES, _EXTRA_SAMPLES, _PHOTOMETRIC = 277, 338, 262  # TIFF tags
_ALPHAS = (1, 2, 999)  # extra samples that are an alpha band
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # bands of TIFF's photometric interpretations; others have one
_LOW_BYTES = {  # raw modes that decode the high bytes of 16-bit samples, and those for the low ones
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
} | {"LA;16B": "RGBA"}  # of grey and alpha, four bytes that can be told apart
_NO_WHITE = "has samples of 32 bits, which have no agreed white; save it with 8 or 16 bits"

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Samples:
    """A loaded image, and how its samples become RGB."""

    image: Image.Image
    bits: int = 16  # of samples in 16-bit modes
    opaque: bool = False  # its alpha is no transparency
    white_is_zero: bool = False  # of samples that Pillow does not invert: those of more than 8 bits
    notes: tuple[Note, ...] = ()  # if any, other programs show another image

    def rgb(self, box: Box | None = None) -> Image.Image:
        """The image, or this part of it, in mode RGB: transparency over white, 16-bit samples by their high byte."""
        piece = self.image if box is None else self.image.crop(box)
        if piece.mode.startswith("I;16") or piece.mode == "F":
            grey = self._grey(piece)
            return (ImageChops.invert(grey) if self.white_is_zero else grey).convert("RGB")
        if piece.has_transparency_data and not self.opaque:
            layer = piece.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        return piece if piece.mode == "RGB" else piece.convert("RGB")

    def _grey(self, piece: Image.Image) -> Image.Image:
        if piece.mode == "F":
            return piece.point(lambda sample: sample * 255 + 0.5).convert("L")
        data = piece.tobytes()
        big = piece.mode == "I;16B" or (piece.mode == "I;16N" and sys.byteorder == "big")
        high = Image.frombytes("L", piece.size, data[0 if big else 1 :: 2])
        if self.bits == 16:
            return high
        return _stretched(high, Image.frombytes("L", piece.size, data[1 if big else 0 :: 2]), self.bits)


def loaded(image: Image.Image, reopened: Callable[[], AbstractContextManager[Image.Image]]) -> Samples:
    """Loads the opened image and judges its samples; Unusable if they have no agreed white.

    `reopened` opens the image once more, where the low bytes of its samples are needed.
    """
    raw_mode, (ignored, undeclared) = _raw_mode(image), _further_bands(image)
    notes = [Note("imageBandsIgnored", {"bands": str(ignored)})] if ignored else []
    image.load()
    bits = _depth(image, wide=raw_mode in _LOW_BYTES)
    if bits < 16:
        notes.append(Note("imageDepthJudged", {"bits": str(bits)}))
        if raw_mode in _LOW_BYTES:
            with reopened() as again:
                image = _with_low_bytes(image, again, raw_mode, bits)
    transparent = not undeclared and _is_transparent_throughout(image)
    if transparent:
        notes.append(Note("imageAlphaIgnored"))
    return Samples(image, bits, undeclared or transparent, _is_white_zero(image), tuple(notes))


def _raw_mode(image: Image.Image) -> str:
    """How the file's samples are stored, in Pillow's words; empty if in more ways than one."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) and image.format in ("PNG", "TIFF") else []
    modes = {tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0]) for tile in tiles}
    return modes.pop() if len(modes) == 1 else ""


def _further_bands(image: Image.Image) -> tuple[int, bool]:
    """How many bands of a TIFF are neither colour nor declared as alpha, and whether Pillow takes one for alpha."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0, False
    tags = image.tag_v2
    extra: tuple[int, ...] = tags.get(_EXTRA_SAMPLES, ())
    colours = _COLOURS.get(tags.get(_PHOTOMETRIC, 0), 1)
    further = max(0, tags.get(_SAMPLES, 1) - colours - (1 if extra[:1] and extra[0] in _ALPHAS else 0))
    return further, bool(further) and not extra and image.mode in ("RGBA", "LA")


def _is_white_zero(image: Image.Image) -> bool:
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0


def _is_transparent_throughout(image: Image.Image) -> bool:
    """Whether nothing of the image would be seen."""
    if image.mode in ("RGBA", "LA"):
        return image.getchannel("A").getextrema()[1] == 0
    transparency = image.info.get("transparency")
    if image.mode != "P" or transparency is None:
        return False
    used = [index for _, index in image.getcolors() or []]
    if isinstance(transparency, int):
        return used == [transparency]
    return all(isinstance(index, int) and not any(transparency[index : index + 1] or b"\1") for index in used)


def _depth(image: Image.Image, *, wide: bool) -> int:
    """The bits of samples that are stored in 16, judged by the largest; 16 for all others."""
    if image.mode == "I" or (image.mode == "F" and not _is_within_one(image)):
        raise Unusable(_NO_WHITE)
    if image.mode.startswith("I;16"):
        largest = _highest(image if image.mode == "I;16" else image.convert("I"))
    elif wide:
        largest = (max(_highest(image.getchannel(band)) for band in "RGB") << 8) + 1
    else:
        return 16
    return next((bits for bits in DEPTHS if 0 < largest < 1 << bits), 16)


def _highest(band: Image.Image) -> int:
    highest = band.getextrema()[1]
    return int(highest) if isinstance(highest, int | float) else 0


def _is_within_one(image: Image.Image) -> bool:
    """Whether all samples are numbers from 0 to 1, where 1 is white; the mean is no number if a sample is none."""
    lowest, highest = image.getextrema()
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    finite = isinstance(mean, float) and math.isfinite(mean)
    return finite and isinstance(lowest, float) and isinstance(highest, float) and lowest >= 0 and highest <= 1


def _with_low_bytes(high: Image.Image, again: Image.Image, raw_mode: str, bits: int) -> Image.Image:
    """The loaded image with samples of so many bits stretched to eight; `again` is the same file, opened."""
    assert isinstance(again, ImageFile.ImageFile), "opened from a file"
    low_mode = _LOW_BYTES[raw_mode]
    again.tile = [
        tile._replace(args=low_mode if isinstance(tile.args, str) else (low_mode, *(tile.args or ())[1:]))
        for tile in again.tile
    ]
    again.load()
    spread = {"R": 1, "G": 1, "B": 1, "A": 3} if raw_mode == "LA;16B" else {}
    bands: list[Image.Image] = []
    for band in high.getbands():
        own = high.getchannel(band)
        deep = band == "A" and _highest(own) >> (bits - 8)  # alpha has its own scale
        bands.append(own if deep else _stretched(own, again.getchannel(spread.get(band, band)), bits))
    return Image.merge(high.mode, bands)


def _stretched(high: Image.Image, low: Image.Image, bits: int) -> Image.Image:
    """The upper eight of so many bits, given the high and low bytes of samples."""
    upper = high.point([(sample << (16 - bits)) & 255 for sample in range(256)])
    return ImageChops.add(upper, low.point([sample >> (bits - 8) for sample in range(256)]))
