"""How sharp the sharpest edges of an image are, at the size at which networks see it.

Across a sharp edge, most of the brightness changes between two neighbouring pixels; across a blurred one it changes a
little at each of many. Only the steepest tenth of the strongest edges counts, so that a blurred background, a shadow or
noise is no reason to call an image blurred.

The bound was chosen on every other of the test sets (bccd, eurosat, grocery, kuih, omniglot_greek, raccoon,
traffic_lights), whose softest image, from a microscope, has 0.225, and confirmed on the others, whose softest has 0.27.
Blurred by a Gaussian of 2% of the longer side, photographs have at most 0.20.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLURRED = 0.21  # of an edge's height, between two pixels
SIDE = 256  # pixels: larger images are scaled down to it
SMALLEST_SIDE = 128  # pixels: smaller images are scans, tiles or cut-outs; networks see them scaled up, blurred or not

_SAMPLED_SIDE = 1024  # pixels: of a larger image every second, third, ... row and column is used
_ACROSS = 9  # pixels: what is called an edge
_HEIGHT = 32  # of 256 levels that an edge has at least
_STRONGEST = 0.05  # of the places where there is an edge
_STEEPEST = 0.1  # of these
_FEWEST = 40  # places; with fewer there is nothing to judge by


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Of RGB pixels [height, width, 3]: the share of an edge's height between two pixels, 1 if there are no edges.

    The smaller of the shares across rows and across columns: a moving camera blurs in one direction only.
    """
    height, width = pixels.shape[:2]
    sampled = pixels[:: max(1, height // _SAMPLED_SIDE), :: max(1, width // _SAMPLED_SIDE)]
    grey = Image.fromarray(np.ascontiguousarray(sampled)).convert("L")
    scale = SIDE / max(grey.size)
    if scale < 1:
        size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
        grey = grey.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    brightness = np.asarray(grey)
    return min(_along(brightness), _along(brightness.T))


def _along(brightness: NDArray[np.uint8]) -> float:
    """Of edges between pixels of one row."""
    if brightness.shape[1] <= _ACROSS:
        return 1.0
    low, high = _extreme(brightness, np.minimum, _ACROSS), _extreme(brightness, np.maximum, _ACROSS)
    left, right = brightness[:, :-1], brightness[:, 1:]
    steps = np.maximum(left, right) - np.minimum(left, right)
    heights, steepest = (high - low).ravel(), _extreme(steps, np.maximum, _ACROSS - 1).ravel()
    counts = np.bincount(heights, minlength=256)[::-1].cumsum()  # of heights of at least 255, 254, ...
    bound = max(_HEIGHT, 255 - int(np.searchsorted(counts, _STRONGEST * heights.size)))
    strong = heights >= bound
    if np.count_nonzero(strong) < _FEWEST:
        return 1.0
    return float(np.quantile(steepest[strong] / heights[strong].astype(np.float32), 1 - _STEEPEST))


def _extreme(values: NDArray[np.uint8], choose: np.ufunc, length: int) -> NDArray[np.uint8]:
    """The smallest or largest of each `length` neighbours in a row, in as few steps as possible."""
    found, covered = values, 1
    while covered < length:
        step = min(covered, length - covered)
        found = choose(found[:, :-step], found[:, step:])
        covered += step
    return found
