"""Training views for detectors: an image and its boxes, randomly scaled, moved and coloured, on a batch's canvas.

A view is a part of the image, scaled once and placed on grey. Part and place are whole pixels, so boxes follow pixels
exactly. The generator's state alone decides the view.
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
from services.vision.letterbox import GREY, letterbox, padded_side
from services.vision.preprocess import Augmentation, channels_first, jittered, normalise, uniform

MARGIN = 1.25  # of a kept image's longer side over the canvas's, so that enlarged views have detail
FITTING = 0.9  # share of a dataset's images that fit the canvas, in width and in height
LEAST_SHARE = 0.3  # of a box's area that a view must show, for it to keep the box
LEAST_SIDE = 2.0  # pixels of the canvas

_UNCHANGED = Augmentation(min_area=1, max_aspect=1, flip=0, brightness=0, contrast=0, saturation=0, hue=0)


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An upright image and its boxes, in pixels of this array, without regions that are not trained on."""

    rgb: NDArray[np.uint8]
    boxes: Tensor  # [m, 4] float32: left, top, right, bottom
    labels: Tensor  # [m] int64


@dataclass(frozen=True, slots=True)
class Canvas:
    """What the views of a batch are placed on; without random scaling, an image's longer side is `side`."""

    width: int  # multiples of the networks' coarsest stride
    height: int
    side: int


@dataclass(frozen=True, slots=True)
class Variation:
    """How far views may differ from the image; with all ones and zeros, views are as in serving."""

    nearest: float  # objects are at most this many times their size in serving
    farthest: float  # and at least this many times
    max_aspect: float  # of the distortion, in either direction
    shift: float  # share of the free canvas over which the image may move
    flip: float  # probability
    colour: Augmentation


def variation(strength: float, *, mirror: bool) -> Variation:
    """From 0, the image unchanged (or mirrored), to 1, half to twice its size."""
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
    """The smallest canvas that holds most images, given as (width, height), with a longer side of `side`.

    Images of 640 x 480 train on 640 x 480; together with as many of 480 x 640, on a square.
    """
    frames = [letterbox(width, height, side) for width, height in sizes]
    if not frames:
        return Canvas(padded_side(side), padded_side(side), side)
    widths, heights = sorted(frame.input_width for frame in frames), sorted(frame.input_height for frame in frames)
    index = min(len(frames) - 1, int(FITTING * len(frames)))
    return Canvas(widths[index], heights[index], side)


def shrunk(
    rgb: NDArray[np.uint8], boxes: Tensor, labels: Tensor, *, width: int, height: int, side: int
) -> AnnotatedImage:
    """The decoded image, no larger than views on a canvas of that side need; boxes are in width x height pixels."""
    rows, columns = rgb.shape[:2]
    limit = round(MARGIN * side)
    if max(rows, columns) > limit:
        frame = letterbox(columns, rows, limit)
        small = functional.resize(channels_first(rgb), [frame.inner_height, frame.inner_width], antialias=True)
        rgb = np.ascontiguousarray(small.permute(1, 2, 0).numpy())
    else:
        rgb = rgb.copy()  # releases the memory it may be a view of
    across, down = rgb.shape[1] / width, rgb.shape[0] / height
    return AnnotatedImage(rgb, boxes * boxes.new_tensor([across, down, across, down]), labels)


def plain(source: AnnotatedImage, on: Canvas, rule: InputRule) -> tuple[Tensor, Targets]:
    """The whole image at the canvas's top left, smaller than in serving only if it would not fit."""
    height, width = source.rgb.shape[:2]
    factor = min(on.side / max(width, height), on.width / width, on.height / height)
    unchanged = Variation(1, 1, 1, 0, 0, _UNCHANGED)
    fitting = Canvas(on.width, on.height, max(1, int(factor * max(width, height) + 1e-6)))
    return augmented(source, fitting, rule, unchanged, torch.Generator())


def augmented(
    source: AnnotatedImage, on: Canvas, rule: InputRule, how: Variation, generator: torch.Generator
) -> tuple[Tensor, Targets]:
    """A random view as input, float32 [3, height, width], and the boxes it shows, in its pixels."""
    height, width = source.rgb.shape[:2]
    zoom = on.side / max(width, height) * how.farthest * (how.nearest / how.farthest) ** uniform(generator, 0, 1)
    aspect = how.max_aspect ** uniform(generator, -0.5, 0.5)
    left, right, start_x, end_x = _placed(width, zoom * aspect, on.width, how.shift, generator)
    top, bottom, start_y, end_y = _placed(height, zoom / aspect, on.height, how.shift, generator)
    across, down = (end_x - start_x) / (right - left), (end_y - start_y) / (bottom - top)
    boxes = (source.boxes - source.boxes.new_tensor([left, top, left, top])) * torch.tensor([across, down] * 2)
    image = functional.resized_crop(
        channels_first(source.rgb), top, left, bottom - top, right - left, [end_y - start_y, end_x - start_x],
        InterpolationMode(rule.interpolation), antialias=True,
    )  # fmt: skip
    if uniform(generator, 0, 1) < how.flip:
        image = functional.horizontal_flip(image)
        boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([end_x - start_x, 0] * 2)
    view = torch.full((3, on.height, on.width), float(GREY))
    view[:, start_y:end_y, start_x:end_x] = jittered(image, how.colour, generator)
    boxes += boxes.new_tensor([start_x, start_y, start_x, start_y])
    return normalise(view, rule), _shown(boxes, source.labels, (start_x, start_y, end_x, end_y))


def _placed(side: int, zoom: float, room: int, shift: float, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Along one axis: start and end of the part that is shown, and its start and end on the canvas."""
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
