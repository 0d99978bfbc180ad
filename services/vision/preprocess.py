"""Training's tensors of images: as served, by `inputs.framed`, or randomly varied."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from services.vision.card import InputRule
from services.vision.decode import decode, inspect
from services.vision.inputs import framed
from services.vision.letterbox import Letterbox, letterbox

_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # of RGB; first row luma


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far training views may differ from the image; zeros change nothing but the framing."""

    min_area: float = 0.35  # share of the image that a random crop keeps, at least
    max_aspect: float = 4 / 3  # of a crop, in either direction
    flip: float = 0.5  # probability
    brightness: float = 0.3  # factors are in 1 - x .. 1 + x
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.02  # turns


def load(data: bytes, rule: InputRule, name: str = "image") -> Tensor:
    """An image file as input, normalised."""
    rgb = decode(data, name=name, at_least=rule.at_least)
    if rule.fit != "letterbox":
        return apply(rgb, rule)
    info = inspect(data, name, min_side=1)
    return apply(rgb, rule, letterbox(info.width, info.height, rule.size))


def apply(rgb: NDArray[np.uint8], rule: InputRule, frame: Letterbox | None = None) -> Tensor:
    """uint8 [height, width, 3] into float32 [3, size, size], or a letterbox's own sides; deterministic.

    `frame` is the letterbox of the original image, which may have been decoded smaller; by default, of the array.
    """
    return normalise(channels_first(framed(rgb, rule, frame)), rule)


def augment(rgb: NDArray[np.uint8], rule: InputRule, how: Augmentation, generator: torch.Generator) -> Tensor:
    """A random view of the image as input of the rule's size; the generator's state alone decides which."""
    image = channels_first(rgb)
    top, left, height, width = _random_box(image.shape[-2], image.shape[-1], how, generator)
    size = [rule.size, rule.size]
    image = functional.resized_crop(image, top, left, height, width, size, _interpolation(rule), antialias=True)
    if uniform(generator, 0, 1) < how.flip:
        image = functional.horizontal_flip(image)
    return normalise(jittered(image, how, generator), rule)


def view(rgb: NDArray[np.uint8], rule: InputRule, index: int) -> Tensor:
    """One of a few fixed views, for cached features: 0 is as served, 1 mirrored, the others are seeded and random."""
    if index == 0:
        return apply(rgb, rule)
    if index == 1:
        return apply(np.ascontiguousarray(rgb[:, ::-1]), rule)
    return augment(rgb, rule, Augmentation(), torch.Generator().manual_seed(index))


def normalise(images: Tensor, rule: InputRule) -> Tensor:
    """[..., 3, h, w] RGB samples 0..255 into the float32 input that the network expects."""
    if rule.channel_order == "BGR":
        images = images.flip(-3)
    mean = torch.tensor(rule.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(rule.std, device=images.device).view(3, 1, 1)
    return images.float().mul_(rule.scale).sub_(mean).div_(std)


def channels_first(rgb: NDArray[np.uint8]) -> Tensor:
    """[h, w, 3] as [3, h, w], copied only if the memory is read-only."""
    if not rgb.flags.writeable:  # torch warns about read-only memory
        rgb = rgb.copy()
    return torch.from_numpy(rgb).permute(2, 0, 1)


def _interpolation(rule: InputRule) -> InterpolationMode:
    return InterpolationMode(rule.interpolation)


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A random number from low..high."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def _random_box(height: int, width: int, how: Augmentation, generator: torch.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop by area and aspect, cut to the image."""
    area = height * width * uniform(generator, how.min_area, 1)
    aspect = how.max_aspect ** uniform(generator, -1, 1)
    crop_width = min(width, max(1, round((area * aspect) ** 0.5)))
    crop_height = min(height, max(1, round((area / aspect) ** 0.5)))
    top = int(uniform(generator, 0, height - crop_height + 1))
    left = int(uniform(generator, 0, width - crop_width + 1))
    return min(top, height - crop_height), min(left, width - crop_width), crop_height, crop_width


def jittered(image: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast, saturation and hue of [3, h, w], as one 3 x 3 matrix and an offset.

    That is ten times as fast as one after another. Hue rotates the chroma plane of YIQ, which is linear, unlike HSV.
    """
    factors = (how.brightness, how.contrast, how.saturation)
    brightness, contrast, saturation = (uniform(generator, 1 - factor, 1 + factor) for factor in factors)
    turn = 2 * math.pi * uniform(generator, -how.hue, how.hue)
    if how.hue == 0 and not any(factors):
        return image
    cosine, sine = saturation * math.cos(turn), saturation * math.sin(turn)
    chroma = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    matrix = brightness * contrast * (_YIQ.inverse() @ chroma @ _YIQ)
    samples = image.flatten(1).float()
    grey = brightness * (_YIQ[0] @ samples.mean(dim=1))
    samples = torch.addmm((1 - contrast) * grey, matrix, samples).clamp_(0, 255)
    return samples.view(image.shape)
