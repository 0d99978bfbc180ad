"""The whole picture in a detector's input: where it lies, and the boxes between the two.

Scaled so that its longer side is the rule's size, it lies at the top left; grey fills up its own rectangle on the
right and below to multiples of the networks' coarsest stride. An input thus depends on its image and the rule only.
"""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from services.vision.card import InputRule

GREY = 114  # what fills up
STRIDE = 32  # sides of inputs are multiples of it


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where an upright picture of width x height pixels lies in its input; decoding may have given fewer pixels."""

    width: int
    height: int
    inner_width: int  # of the picture within the input
    inner_height: int
    input_width: int  # multiples of STRIDE
    input_height: int

    @property
    def scale_x(self) -> float:
        """Input pixels per pixel of the picture: exact, since it is of the rounded sides."""
        return self.inner_width / self.width

    @property
    def scale_y(self) -> float:
        """As `scale_x`, downwards."""
        return self.inner_height / self.height

    def to_image(self, boxes: Tensor) -> Tensor:
        """[..., 4] left, top, right, bottom, from input pixels to the image's; nothing is clipped."""
        return boxes / boxes.new_tensor([self.scale_x, self.scale_y, self.scale_x, self.scale_y])


def letterbox(width: int, height: int, size: int) -> Letterbox:
    """Of an upright picture, its longer side scaled to `size`."""
    longer = max(width, height)
    inner_width, inner_height = max(1, round(width * size / longer)), max(1, round(height * size / longer))
    return Letterbox(width, height, inner_width, inner_height, filled_up(inner_width), filled_up(inner_height))


def letterboxed(image: Tensor, frame: Letterbox, rule: InputRule) -> Tensor:
    """uint8 [3, h, w], the upright picture as decoded, into uint8 [3, input_height, input_width]."""
    size = [frame.inner_height, frame.inner_width]
    image = functional.resize(image, size, InterpolationMode(rule.interpolation), antialias=True)
    padding = [0, 0, frame.input_width - frame.inner_width, frame.input_height - frame.inner_height]
    return functional.pad(image, padding, fill=[GREY])


def filled_up(side: float) -> int:
    """The multiple of the stride that holds the side."""
    return max(1, -int(-side // STRIDE)) * STRIDE
