"""Charts as inline SVG: bars of the categories, and a scatter of the sizes."""

import math
from collections.abc import Sequence

from sightline.client.results.dataset import Category
from sightline.pages.markup import Markup, tag

BARS = 60
_ROW, _LABEL, _BAR = 22, 220, 420  # pixels
_PLOT, _MARGIN = 360, 48
_LETTERS = 30
_HUES = (210, 25, 120, 280, 50, 170, 340, 90)


def series_colour(number: int) -> str:
    """The colour of a category's boxes, or of a line among others."""
    return f"hsl({_HUES[number % len(_HUES)]} 90% 45%)"


def bars(categories: Sequence[Category]) -> Markup:
    """A bar for each category, the most frequent first; at most BARS."""
    shown = sorted(categories, key=lambda one: -one.image_count)[:BARS]
    most = max((one.image_count for one in shown), default=0) or 1
    rows: list[Markup] = []
    for row, one in enumerate(shown):
        y, width = row * _ROW, max(1.0, _BAR * one.image_count / most)
        name = one.name if len(one.name) <= _LETTERS else one.name[: _LETTERS - 1] + "…"
        rows += [
            tag("text", name, tag("title", one.name), x=_LABEL - 8, y=y + 15, text_anchor="end"),
            tag("rect", x=_LABEL, y=y + 3, width=f"{width:.1f}", height=_ROW - 6, class_="bar"),
            tag("text", str(one.image_count), x=f"{_LABEL + width + 6:.1f}", y=y + 15),
        ]
    size = _LABEL + _BAR + 80, max(1, len(shown)) * _ROW
    return tag("svg", *rows, viewBox=f"0 0 {size[0]} {size[1]}", width=size[0], height=size[1], role="img")


def scatter(sizes: Sequence[tuple[int, int]]) -> Markup:
    """Width and height of images, both axes from 0 to the same round number."""
    limit = _round_up(max((max(size) for size in sizes), default=1))
    end = _MARGIN + _PLOT

    def across(value: float) -> str:
        return f"{_MARGIN + _PLOT * value / limit:.1f}"

    def down(value: float) -> str:
        return f"{_PLOT + 8 - _PLOT * value / limit:.1f}"

    parts = [tag("rect", x=_MARGIN, y=8, width=_PLOT, height=_PLOT, class_="plot")]
    for tick in (0.25, 0.5, 0.75, 1.0):
        label = f"{limit * tick:g}"
        parts += [
            tag("text", label, x=across(limit * tick), y=_PLOT + 26, text_anchor="middle"),
            tag("text", label, x=_MARGIN - 6, y=down(limit * tick - limit / 80), text_anchor="end"),
        ]
    parts += [
        tag("circle", tag("title", f"{w} x {h}"), cx=across(w), cy=down(h), r=4, class_="dot") for w, h in set(sizes)
    ]
    parts += [
        tag("text", "width, pixels", x=end, y=_PLOT + 42, text_anchor="end"),
        tag("text", "height", x=_MARGIN + 6, y=22),
    ]
    size = end + 24, _PLOT + 50
    return tag("svg", *parts, viewBox=f"0 0 {size[0]} {size[1]}", width=size[0], height=size[1], role="img")


def _round_up(value: float) -> int:
    """The next of 1, 2, 4, 5, 8, 10, 20, ..."""
    unit = 10 ** math.floor(math.log10(max(value, 1)))
    return next(int(unit * factor) for factor in (1, 2, 4, 5, 8, 10) if unit * factor >= value)
