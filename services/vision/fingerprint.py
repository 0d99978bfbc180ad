"""What tells whether two images look the same: a digest of the pixels, and a perceptual hash of 256 bits.

The hash has the signs of the lowest frequencies of a small copy, as in pHash (Zauner, 2010), here of brightness and of
both colour differences. It hardly changes with size, compression or exposure. No torch.
"""

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_BYTES = 32
BRIGHTNESS_BYTES = 24  # of the hash; the rest is colour
_SIDE = 32  # pixels of the small copy
_SAMPLED_SIDE = 1024  # pixels; of a larger image every second, third, ... row and column is used
_COLOUR_BITS = 32  # of each colour difference
_FLAT = 1.0  # standard deviation of the brightness, of 256 levels, below which an image shows nothing
_COLOURED = 1.0  # a frequency of a colour difference counts as present from this amplitude on


class Fingerprint(msgspec.Struct, frozen=True, array_like=True):
    """An image's pixels in short; an array of two in JSON."""

    pixels: str  # SHA-256 of the upright RGB pixels and their size, 32 hexadecimal digits of it
    perceptual: str = ""  # the perceptual hash, 64 hexadecimal digits; empty for an image of one colour


def _basis(frequencies: int) -> NDArray[np.float32]:
    """[frequencies, _SIDE]: the orthonormal discrete cosine transform."""
    phase = np.pi * (np.arange(_SIDE) + 0.5) * np.arange(frequencies)[:, None] / _SIDE
    rows = np.cos(phase) * np.sqrt(2 / _SIDE)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


def _lowest_first(frequencies: int) -> NDArray[np.int64]:
    """The order of the flattened coefficients from low to high frequencies."""
    down, across = np.mgrid[:frequencies, :frequencies]
    return np.lexsort((down.ravel(), (down + across).ravel()))


_BASIS = _basis(24)
_ORDER = _lowest_first(24)


def fingerprint(pixels: NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of upright RGB pixels [height, width, 3]."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Fingerprint(digest.hexdigest()[:32], perceptual_hash(pixels).hex())


def perceptual_hash(pixels: NDArray[np.uint8]) -> bytes:
    """HASH_BYTES, or none for an image of one colour."""
    height, width = pixels.shape[:2]
    sampled = pixels[:: max(1, height // _SAMPLED_SIDE), :: max(1, width // _SAMPLED_SIDE)]
    small = Image.fromarray(np.ascontiguousarray(sampled)).resize(
        (_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    channels = np.asarray(small.convert("YCbCr"), np.float32) - 128
    if channels[..., 0].std() < _FLAT:
        return b""
    brightness, blue, red = (((_BASIS @ channels[..., each] @ _BASIS.T).ravel() / _SIDE)[_ORDER] for each in range(3))
    lowest = brightness[1 : 8 * BRIGHTNESS_BYTES + 1]  # without the mean
    bits = [lowest > np.median(lowest), blue[:_COLOUR_BITS] > _COLOURED, red[:_COLOUR_BITS] > _COLOURED]
    return np.packbits(np.concatenate(bits)).tobytes()
