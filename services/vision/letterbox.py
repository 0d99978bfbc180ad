"""Letterboxing: where the whole image is in a detector's input, and boxes from one to the other.

The image is scaled to the rule's size on its longer side and placed at the top left; grey pads it on the right and
below to multiples of the networks' coarsest stride. An input thus depends on its image and the rule only. No torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GREY = 114  # of the padding
STRIDE = 32  # divides the sides of inputs


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where an upright image of width x height pixels is in its input; it may have been decoded smaller."""

    width: int
    height: int
    inner_width: int  # of the image within the input
    inner_height: int
    input_width: int  # multiples of STRIDE
    input_height: int

    @property
    def scale_x(self) -> float:
        """Input pixels per image pixel, horizontally; exact, as it is that of the rounded sides."""
        return self.inner_width / self.width

    @property
    def scale_y(self) -> float:
        """As `scale_x`, vertically."""
        return self.inner_height / self.height

    def to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """[..., 4] left, top, right, bottom, from input pixels to the image's; nothing is clipped."""
        return boxes / np.array([self.scale_x, self.scale_y] * 2, np.float32)


def letterbox(width: int, height: int, size: int) -> Letterbox:
    """The letterbox of an upright image, its longer side scaled to `size`."""
    longer = max(width, height)
    inner_width, inner_height = max(1, round(width * size / longer)), max(1, round(height * size / longer))
    return Letterbox(width, height, inner_width, inner_height, padded_side(inner_width), padded_side(inner_height))


def padded_side(side: float) -> int:
    """The side rounded up to a multiple of the stride."""
    return max(1, -int(-side // STRIDE)) * STRIDE
