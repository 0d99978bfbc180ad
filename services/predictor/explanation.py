"""Which parts of an image support a tag: how much the confidence in it falls when they are covered.

This works with any network and engine, as it looks at answers only (occlusion: Zeiler and Fergus 2014).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.kit.errors import InvalidRequest
from services.predictor.domain import Prepared, RawOutput
from services.predictor.results import Tag
from services.vision.card import ModelCard
from services.vision.decode import Decoded, ImageInfo
from services.vision.image_detections import ImageDetections
from services.vision.inputs import Pixels

CELLS = 49  # about
SHOWN_SIDE = 1024  # pixels of the overlay, at most; an image of twice that is scaled down before it is covered
_INK = np.array([230, 30, 30], np.float32)
_STRENGTH = 0.65  # of the ink where the weight is 1


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of nearly equal sides over an image."""

    columns: int
    rows: int

    @classmethod
    def over(cls, width: int, height: int) -> "Grid":
        """About CELLS cells, as square as possible."""
        rows = min(CELLS, max(1, round((CELLS * height / width) ** 0.5)))
        return cls(max(1, round(CELLS / rows)), rows)

    def cells(self) -> Iterator[tuple[int, int]]:
        """Column and row of each, row by row."""
        return ((column, row) for row in range(self.rows) for column in range(self.columns))


@dataclass(frozen=True, slots=True)
class Inputs:
    """An image as the network sees it whole, and with each cell covered; and as people see it."""

    info: ImageInfo
    grid: Grid
    whole: Prepared
    covered: Sequence[Prepared]
    shown: Pixels


@dataclass(frozen=True, slots=True)
class Explanation:
    """What supports a tag; `weights` are those of the cells, row by row, 0..1."""

    model_version: str
    width: int
    height: int
    tag: Tag
    grid: Grid
    weights: tuple[float, ...]
    overlay_png: bytes


def inputs_of(decoded: Decoded, arrange: Callable[[Decoded], Prepared]) -> Inputs:
    """The inputs; shares no memory with the pixels."""
    grid = Grid.over(decoded.info.width, decoded.info.height)
    decoded = Decoded(decoded.info, {size: _reduced(rgb, size) for size, rgb in decoded.pixels.items()})
    means = {size: rgb.mean(axis=(0, 1)) for size, rgb in decoded.pixels.items()}
    return Inputs(
        decoded.info,
        grid,
        arrange(decoded),
        [arrange(_covered(decoded, means, grid, *cell)) for cell in grid.cells()],
        _shown(max(decoded.pixels.values(), key=len)),
    )


def check_tag(card: ModelCard, tag: str) -> None:
    """InvalidRequest if the model has no such tag; none is named by an empty one."""
    names = [category.name for category in card.categories]
    if tag and tag not in names:
        raise InvalidRequest(field="tag", problem=f"the model has no {tag!r}, only {', '.join(names[:20])}")


def label_of(card: ModelCard, output: RawOutput, tag: str) -> int:
    """The index of the tag, which the model has; by default that of the most confident one. InvalidRequest."""
    if tag:
        return [category.name for category in card.categories].index(tag)
    if not isinstance(output, ImageDetections):
        return int(output.argmax())
    if not len(output.scores):
        raise InvalidRequest(field="tag", problem="nothing was detected; name the tag to explain")
    return int(output.labels[output.scores.argmax()])


def confidence_in(output: RawOutput, label: int) -> float:
    """A classifier's probability, or a detector's most confident object of the category; 0 without one."""
    if isinstance(output, ImageDetections):
        return float(output.scores[output.labels == label].max(initial=0))
    return float(output[label])


def weights_of(whole: float, covered: Sequence[float]) -> tuple[float, ...]:
    """How far the confidence falls with each cell covered, relative to the largest fall; all 0 if it never does."""
    falls = np.maximum(0, whole - np.array(covered))
    return tuple((falls / (falls.max() or 1)).tolist())


def overlay(shown: Pixels, grid: Grid, weights: Sequence[float]) -> bytes:
    """A PNG of the image in grey, with ink where the weights are high."""
    height, width = shown.shape[:2]
    cells = Image.fromarray(np.array(weights, np.float32).reshape(grid.rows, grid.columns))
    ink = _STRENGTH * np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR))[..., None]
    grey = np.asarray(Image.fromarray(shown).convert("L"), np.float32)[..., None]
    file = BytesIO()
    Image.fromarray(np.rint(ink * _INK + (1 - ink) * grey).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _reduced(rgb: Pixels, at_least: int) -> Pixels:
    """By a whole number, to less than twice SHOWN_SIDE if its shorter side stays `at_least`."""
    height, width = rgb.shape[:2]
    factor = max(1, min(max(width, height) // SHOWN_SIDE, min(width, height) // at_least))
    return np.asarray(Image.fromarray(rgb).reduce(factor)) if factor > 1 else rgb


def _covered(decoded: Decoded, means: Mapping[int, NDArray[np.float64]], grid: Grid, column: int, row: int) -> Decoded:
    """The image with a cell and half a cell around it in the image's mean colour."""
    patched = {size: _patched(rgb, means[size], grid, column, row) for size, rgb in decoded.pixels.items()}
    return Decoded(decoded.info, patched)


def _patched(rgb: Pixels, mean: NDArray[np.float64], grid: Grid, column: int, row: int) -> Pixels:
    height, width = rgb.shape[:2]
    across, down = width / grid.columns, height / grid.rows
    left, right = (round(across * (column + edge)) for edge in (-0.5, 1.5))
    top, bottom = (round(down * (row + edge)) for edge in (-0.5, 1.5))
    patched = rgb.copy()
    patched[max(0, top) : bottom, max(0, left) : right] = mean
    return patched


def _shown(rgb: NDArray[np.uint8]) -> Pixels:
    image = Image.fromarray(rgb)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return np.array(image)
