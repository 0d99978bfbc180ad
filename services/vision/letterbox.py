"""Letterboxing: where the whole image is in a detector's input, and boxes from one to the other.

The image is scaled to the rule's size on its longer side and placed at the top left; grey pads it on the right and
below to multiples of the networks' coarsest stride. An input thus depends on its image and the rule only.
"""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from services.vision.card import InputRule

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

    def to_image(self, boxes: Tensor) -> Tensor:
        """[..., 4] left, top, right, bottom, from input pixels to the image's; nothing is clipped."""
        return boxes / boxes.new_tensor([self.scale_x, self.scale_y, self.scale_x, self.scale_y])


def letterbox(width: int, height: int, size: int) -> Letterbox:
    """The letterbox of an upright image, its longer side scaled to `size`."""
    longer = max(width, height)
    inner_width, inner_height = max(1, round(width * size / longer)), max(1, round(height * size / longer))
    return Letterbox(width, height, inner_width, inner_height, padded_side(inner_width), padded_side(inner_height))


def letterboxed(image: Tensor, frame: Letterbox, rule: InputRule) -> Tensor:
    """uint8 [3, h, w], the upright image as decoded, into uint8 [3, input_height, input_width]."""
    size = [frame.inner_height, frame.inner_width]
    image = functional.resize(image, size, InterpolationMode(rule.interpolation), antialias=True)
    padding = [0, 0, frame.input_width - frame.inner_width, frame.input_height - frame.inner_height]
    return functional.pad(image, padding, fill=[GREY])


def padded_side(side: float) -> int:
    """The side rounded up to a multiple of the stride."""
    return max(1, -int(-side // STRIDE)) * STRIDE
