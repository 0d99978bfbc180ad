"""What a network sees of an image: upright pixels, framed by the card's rule. No torch: every engine shares it.

Engines normalise the pixels themselves, so that what travels to a device is bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.vision.card import InputRule, ModelCard
from services.vision.decode import Decoded, decode_sizes
from services.vision.letterbox import GREY, Letterbox, letterbox

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB
STRIP = 8  # inputs in a row: a longer image is cut before it is resized, not after
Views = tuple[Pixels, ...]  # one image for each backbone of a classifier, in order; equal rules share one array


@dataclass(frozen=True, slots=True, eq=False)
class Letterboxed:
    """One image for a detector, and where it is in the network's input."""

    pixels: Pixels
    frame: Letterbox


def framed(rgb: Pixels, rule: InputRule, frame: Letterbox | None = None) -> Pixels:
    """Upright pixels, as decoded, at the size that the network sees, in memory of their own; deterministic.

    `frame` is the letterbox of the original image, which may have been decoded smaller; by default, of the array.
    """
    height, width = rgb.shape[:2]
    if rule.fit == "letterbox":
        frame = frame or letterbox(width, height, rule.size)
        canvas = np.full((frame.input_height, frame.input_width, 3), GREY, np.uint8)
        canvas[: frame.inner_height, : frame.inner_width] = _resized(rgb, frame.inner_width, frame.inner_height, rule)
        return canvas
    if rule.fit == "stretch":
        return _resized(rgb, rule.size, rule.size, rule)
    shorter = min(height, width)
    # Rounded down, as torchvision does: published weights were trained that way.
    across, down = (max(rule.size, rule.resize * side // shorter) for side in (width, height))
    left, top = round((across - rule.size) / 2), round((down - rule.size) / 2)
    if max(across, down) <= STRIP * rule.size:
        return _resized(rgb, across, down, rule)[top : top + rule.size, left : left + rule.size].copy()
    x, y = width / across, height / down  # of the image's own pixels to one of the input
    part = left * x, top * y, (left + rule.size) * x, (top + rule.size) * y
    return _resized(rgb, rule.size, rule.size, rule, part)


def _resized(
    rgb: Pixels, width: int, height: int, rule: InputRule, part: tuple[float, float, float, float] | None = None
) -> Pixels:
    """The image, or the part of it between these edges: left, top, right and bottom."""
    if (height, width) == rgb.shape[:2] and part is None:
        return rgb.copy()
    how = Image.Resampling[rule.interpolation.upper()]
    return np.asarray(Image.fromarray(rgb).resize((width, height), how, part))


class ClassifierInputs:
    """How a classifier's images are made, by its card. Thread-safe."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self._rules = [backbone.rule for backbone in card.backbones]

    def prepare(self, data: bytes, name: str = "image") -> Views:
        """An image file's views; raises InvalidImage."""
        return self.arrange(self.decode(data, name))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Each `at_least` among the rules."""
        return tuple(dict.fromkeys(rule.at_least for rule in self._rules))

    def decode(self, data: bytes, name: str = "image") -> Decoded:
        """The first half of `prepare`: upright pixels for each of `sizes`."""
        return decode_sizes(data, self.sizes, name, min_side=1)

    def arrange(self, decoded: Decoded) -> Views:
        """The second half of `prepare`; shares no memory with the pixels."""
        views = {rule: framed(decoded.pixels[rule.at_least], rule) for rule in set(self._rules)}
        return tuple(views[rule] for rule in self._rules)


class DetectorInputs:
    """How a detector's images are made, by its card. Thread-safe."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    @property
    def rule(self) -> InputRule:
        """How the network wants its input."""
        return self.card.backbones[0].rule

    def prepare(self, data: bytes, name: str = "image") -> Letterboxed:
        """An image file, letterboxed; raises InvalidImage."""
        return self.arrange(self.decode(data, name))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The rule's `at_least`."""
        return (self.rule.at_least,)

    def decode(self, data: bytes, name: str = "image") -> Decoded:
        """The first half of `prepare`: upright pixels, perhaps decoded smaller, and the image's header."""
        return decode_sizes(data, self.sizes, name, min_side=1)

    def arrange(self, decoded: Decoded) -> Letterboxed:
        """The second half of `prepare`; shares no memory with the pixels."""
        info = decoded.info
        return self.prepare_pixels(decoded.pixels[self.rule.at_least], info.width, info.height)

    def prepare_pixels(self, rgb: Pixels, width: int, height: int) -> Letterboxed:
        """As `prepare`, from upright pixels of an image of width x height, perhaps decoded smaller."""
        frame = letterbox(width, height, self.rule.size)
        return Letterboxed(framed(rgb, self.rule, frame), frame)


def by_shape(images: Sequence[Letterboxed]) -> list[list[int]]:
    """The indices of the images of each shape, which can share a pass."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.pixels.shape, []).append(index)
    return list(groups.values())


def batches_of(images: Sequence[Views]) -> list[Pixels]:
    """For each backbone, [n, height, width, 3]."""
    return [np.stack(column) for column in zip(*images, strict=True)]
