"""Curves as inline SVG: precision against recall, precision by score, and what more training images are worth."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sightline.pages.charts import series_colour
from sightline.pages.markup import Markup, tag
from sightline.text import shown

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 520.0, 240.0, 48.0, 44.0, 12.0  # pixels
_STEPS = 24  # of a smooth line
_SQUARE = 340.0

Line = Sequence[tuple[float, float]]  # points, each from 0 to 1


@dataclass(frozen=True, slots=True)
class Measured:
    """A point of a learning curve with its interval."""

    images: float  # of each category
    value: float
    low: float
    high: float


def unit_square(lines: Mapping[str, Line], across: str, up: str, *, diagonal: bool = False) -> Markup:
    """Lines in a square from 0 to 1, with the name of each below it; `diagonal` is drawn for comparison."""
    side = _SQUARE - LEFT - EDGE
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)

    def x(value: float) -> float:
        return round(LEFT + side * min(1.0, max(0.0, value)), 1)

    def y(value: float) -> float:
        return round(EDGE + side * (1 - min(1.0, max(0.0, value))), 1)

    parts = [_level(y(tick), f"{100 * tick:.0f}", _SQUARE - EDGE) for tick in ticks]
    parts += [_below(x(tick), f"{100 * tick:.0f}", EDGE + side + 18) for tick in ticks]
    if diagonal:
        parts.append(tag("line", class_="ideal", x1=x(0), y1=y(0), x2=x(1), y2=y(1)))
    for number, (name, line) in enumerate(lines.items()):
        drawn = [*line, line[-1]]  # twice, so that a single point is a dot
        points = " ".join(f"{x(one)},{y(other)}" for one, other in drawn)
        title = tag("title", shown(name))
        parts.append(
            tag(
                "polyline",
                title,
                class_="series",
                points=points,
                stroke_linecap="round",
                style=f"stroke: {series_colour(number)}",
            )
        )
    size = _SQUARE, EDGE + side + BOTTOM
    names = [
        tag("span", tag("span", "— ", class_="swatch", style=f"color: {series_colour(number)}"), shown(name) + "  ")
        for number, name in enumerate(lines)
    ]
    drawing = _drawing(parts, size, f"{up} by {across}", across, up)
    return tag("figure", drawing, tag("figcaption", *names), style=f"width: {_SQUARE:.0f}px")


def learning_curve(points: Sequence[Measured], law: Callable[[float], float] | None, metric: str) -> Markup:
    """The points with their intervals, and the law fitted to them, to twice the images; empty below two points."""
    if len(points) < 2:
        return Markup()
    bottom = max(0.0, math.floor(min(one.low for one in points) * 10) / 10)
    ends = math.log(points[0].images), math.log(points[-1].images * 2)

    def x(images: float) -> float:
        return round(LEFT + (WIDTH - LEFT - EDGE) * (math.log(images) - ends[0]) / (ends[1] - ends[0]), 1)

    def y(value: float) -> float:
        share = (min(1.0, max(bottom, value)) - bottom) / ((1 - bottom) or 1)
        return round((HEIGHT - BOTTOM) - (HEIGHT - BOTTOM - EDGE) * share, 1)

    parts = [_level(y(value), f"{100 * value:.0f}", WIDTH - EDGE) for value in (bottom, (bottom + 1) / 2, 1.0)]
    if law:
        counts = (math.exp(ends[0] + (ends[1] - ends[0]) * step / _STEPS) for step in range(_STEPS + 1))
        parts.append(tag("polyline", class_="fit", points=" ".join(f"{x(count)},{y(law(count))}" for count in counts)))
    for one in points:
        title = tag("title", f"{one.images:.1f} images: {100 * one.value:.1f} %")
        parts += [
            tag("line", class_="whisker", x1=x(one.images), x2=x(one.images), y1=y(one.low), y2=y(one.high)),
            tag("circle", title, class_="bar", cx=x(one.images), cy=y(one.value), r=4),
            _below(x(one.images), f"{one.images:.0f}", HEIGHT - BOTTOM + 18),
        ]
    return _drawing(parts, (WIDTH, HEIGHT), f"{metric} by images", "images of each category", metric)


def _drawing(parts: Iterable[Markup], size: tuple[float, float], label: str, across: str, up: str) -> Markup:
    width, height = size
    axes = (
        tag("text", f"{across} →", x=width - EDGE, y=height - 6, text_anchor="end"),
        tag("text", f"↑ {up}, %", x=LEFT + 4, y=EDGE - 2),
    )
    view = f"0 0 {width:g} {height:g}"
    return tag(
        "svg", *parts, *axes, viewBox=view, width=f"{width:g}", height=f"{height:g}", role="img", aria_label=label
    )


def _level(y: float, label: str, end: float) -> Markup:
    line = tag("line", class_="grid", x1=LEFT, x2=f"{end:g}", y1=y, y2=y)
    return Markup(line + tag("text", label, x=LEFT - 6, y=y + 4, text_anchor="end"))


def _below(x: float, label: str, y: float) -> Markup:
    return tag("text", label, x=x, y=y, text_anchor="middle")
