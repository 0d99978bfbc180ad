"""Training views for detectors: a picture and its boxes, scaled, moved and coloured at random, on a batch's canvas.

A view is a part of the picture, scaled once and laid on grey. Part and place are whole pixels, so that its boxes follow
its pixels exactly. The generator's state alone decides which view it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from services.vision.card import InputRule
from services.vision.detector_network import Targets
from services.vision.letterbox import GREY, filled_up, letterbox
from services.vision.preprocess import Augmentation, channels_first, jittered, normalise, uniform

MARGIN = 1.25  # of a kept picture's longer side over the canvas's, for views from near to draw detail from
FITTING = 0.9  # share of a data set's pictures that a canvas holds whole, across and down
LEAST_SHARE = 0.3  # of a box's area that a view must show, for the box to count
LEAST_SIDE = 2.0  # pixels of the canvas

_STILL = Augmentation(min_area=1, max_aspect=1, flip=0, brightness=0, contrast=0, saturation=0, hue=0)


@dataclass(frozen=True, slots=True)
class Picture:
    """An upright picture and its boxes, in the pixels of this array; regions that no loss should see left out."""

    rgb: NDArray[np.uint8]
    boxes: Tensor  # [m, 4] float32: left, top, right, bottom
    labels: Tensor  # [m] int64


@dataclass(frozen=True, slots=True)
class Canvas:
    """What the views of a batch lie on; a picture's longer side is `side` where nothing has been scaled at random."""

    width: int  # multiples of the networks' coarsest stride
    height: int
    side: int

    def scaled(self, factor: float) -> "Canvas":
        """For training at several scales."""
        return Canvas(filled_up(self.width * factor), filled_up(self.height * factor), round(self.side * factor))


@dataclass(frozen=True, slots=True)
class Variation:
    """How far views may stray; one with nothing but ones and zeros shows the picture as serving does."""

    nearest: float  # objects at most so many times their size in serving
    farthest: float  # and at least
    max_aspect: float  # of the picture's distortion, either way
    shift: float  # share of the free canvas over which the picture may lie
    flip: float  # probability
    colour: Augmentation


def variation(strength: float, *, mirror: bool) -> Variation:
    """From 0, the plain picture (mirrored), to 1, from half to twice its size."""
    return Variation(
        nearest=1 + strength,
        farthest=1 / (1 + strength),
        max_aspect=1.2**strength,
        shift=strength,
        flip=0.5 if mirror else 0.0,
        colour=Augmentation(
            min_area=1, max_aspect=1, flip=0, brightness=0.4 * strength, contrast=0.4 * strength,
            saturation=0.4 * strength, hue=0.0,
        ),
    )  # fmt: skip


def fitting_canvas(sizes: Sequence[tuple[int, int]], side: int) -> Canvas:
    """The smallest that holds most pictures, given as (width, height), with a longer side of `side`.

    A set of pictures of 640 x 480 trains on 640 x 480; one of as many upright ones, on a square.
    """
    frames = [letterbox(width, height, side) for width, height in sizes]
    if not frames:
        return Canvas(filled_up(side), filled_up(side), side)
    widths, heights = sorted(frame.input_width for frame in frames), sorted(frame.input_height for frame in frames)
    index = min(len(frames) - 1, int(FITTING * len(frames)))
    return Canvas(widths[index], heights[index], side)


def kept(rgb: NDArray[np.uint8], boxes: Tensor, labels: Tensor, *, width: int, height: int, side: int) -> Picture:
    """The decoded picture, no larger than views on a canvas of that side need; boxes as of width x height pixels."""
    rows, columns = rgb.shape[:2]
    limit = round(MARGIN * side)
    if max(rows, columns) > limit:
        frame = letterbox(columns, rows, limit)
        small = functional.resize(channels_first(rgb), [frame.inner_height, frame.inner_width], antialias=True)
        rgb = np.ascontiguousarray(small.permute(1, 2, 0).numpy())
    else:
        rgb = rgb.copy()  # what is kept holds on to nothing else
    across, down = rgb.shape[1] / width, rgb.shape[0] / height
    return Picture(rgb, boxes * boxes.new_tensor([across, down, across, down]), labels)


def plain(picture: Picture, on: Canvas, rule: InputRule) -> tuple[Tensor, Targets]:
    """The whole picture at the canvas's top left, smaller than in serving only where it would not fit."""
    height, width = picture.rgb.shape[:2]
    factor = min(on.side / max(width, height), on.width / width, on.height / height)
    still = Variation(1, 1, 1, 0, 0, _STILL)
    fitting = Canvas(on.width, on.height, max(1, int(factor * max(width, height) + 1e-6)))
    return augmented(picture, fitting, rule, still, torch.Generator())


def augmented(
    picture: Picture, on: Canvas, rule: InputRule, how: Variation, generator: torch.Generator
) -> tuple[Tensor, Targets]:
    """A random view as input, float32 [3, height, width], and the boxes that it shows, in its pixels."""
    height, width = picture.rgb.shape[:2]
    zoom = on.side / max(width, height) * how.farthest * (how.nearest / how.farthest) ** uniform(generator, 0, 1)
    aspect = how.max_aspect ** uniform(generator, -0.5, 0.5)
    left, right, start_x, end_x = _placed(width, zoom * aspect, on.width, how.shift, generator)
    top, bottom, start_y, end_y = _placed(height, zoom / aspect, on.height, how.shift, generator)
    across, down = (end_x - start_x) / (right - left), (end_y - start_y) / (bottom - top)
    boxes = (picture.boxes - picture.boxes.new_tensor([left, top, left, top])) * torch.tensor([across, down] * 2)
    image = functional.resized_crop(
        channels_first(picture.rgb), top, left, bottom - top, right - left, [end_y - start_y, end_x - start_x],
        InterpolationMode(rule.interpolation), antialias=True,
    )  # fmt: skip
    if uniform(generator, 0, 1) < how.flip:
        image = functional.horizontal_flip(image)
        boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([end_x - start_x, 0] * 2)
    view = torch.full((3, on.height, on.width), float(GREY))
    view[:, start_y:end_y, start_x:end_x] = jittered(image, how.colour, generator)
    boxes += boxes.new_tensor([start_x, start_y, start_x, start_y])
    return normalise(view, rule), _shown(boxes, picture.labels, (start_x, start_y, end_x, end_y))


def _placed(side: int, zoom: float, room: int, shift: float, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Along one axis: first and last pixel of the part that is shown, and where on the canvas they come to lie."""
    length = max(1, round(side * zoom))
    place = uniform(generator, 0, 1)
    if length <= room:
        start = int(place * shift * (room - length))
        return 0, side, start, start + length
    part = min(side, max(1, round(room / zoom)))
    first = round(place * (side - part))
    return first, first + part, 0, room


def _shown(boxes: Tensor, labels: Tensor, within: tuple[int, int, int, int]) -> Targets:
    left, top, right, bottom = within
    low, high = boxes.new_tensor([left, top, left, top]), boxes.new_tensor([right, bottom, right, bottom])
    clipped = boxes.maximum(low).minimum(high)
    sides = clipped[:, 2:] - clipped[:, :2]
    share = sides.prod(dim=1) / (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp_min(1e-6)
    keep = (sides.amin(dim=1) >= LEAST_SIDE) & (share >= LEAST_SHARE)
    return Targets(clipped[keep], labels[keep])
