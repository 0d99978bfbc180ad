"""Curves as inline SVG: precision against recall, what confidences are worth, and what more images are worth."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sightline.pages.charts import svg
from sightline.pages.markup import Markup, tag
from sightline.pages.style import SERIES
from sightline.text import shown

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE, TOP = 520.0, 240.0, 48.0, 44.0, 12.0, 20.0  # pixels
SQUARE, SMALL = 340.0, 220.0
_STEPS = 24  # of a smooth line
_LEAST, _MOST = 2.5, 9.0  # radius of a bin's dot

Line = Sequence[tuple[float, float]]  # points, each from 0 to 1


@dataclass(frozen=True, slots=True)
class Measured:
    """A point of a learning curve with its interval."""

    images: float  # of each category
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reliable:
    """Predictions of similar confidence, the share that is right with its interval, and how many there are."""

    confidence: float
    accuracy: float
    count: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Axes:
    """What runs to the right, what runs upwards, and how the drawing is read out."""

    across: str
    up: str
    label: str


class _Square:
    """A square from 0 to 1 in both directions."""

    def __init__(self, size: float) -> None:
        self._size, self._side = size, size - LEFT - EDGE

    def x(self, value: float) -> float:
        return round(LEFT + self._side * min(1.0, max(0.0, value)), 1)

    def y(self, value: float) -> float:
        return round(TOP + self._side * (1 - min(1.0, max(0.0, value))), 1)

    def points(self, line: Line) -> str:
        return " ".join(f"{self.x(one)},{self.y(other)}" for one, other in line)

    def drawn(self, parts: Iterable[Markup], axes: Axes) -> Markup:
        ticks = (0.0, 0.25, 0.5, 0.75, 1.0) if self._size > SMALL else (0.0, 0.5, 1.0)
        grid = [_level(self.y(tick), f"{100 * tick:.0f}", self._size - EDGE) for tick in ticks]
        grid += [_below(self.x(tick), f"{100 * tick:.0f}", TOP + self._side + 18) for tick in ticks]
        return _drawing([*grid, *parts], (self._size, TOP + self._side + BOTTOM), axes)

    def diagonal(self) -> Markup:
        return tag("line", class_="ideal", x1=self.x(0), y1=self.y(0), x2=self.x(1), y2=self.y(1))


def unit_square(lines: Mapping[str, Line], axes: Axes) -> Markup:
    """Lines in a square from 0 to 1, each in its colour, with their names below."""
    square, parts, names = _Square(SQUARE), list[Markup](), list[Markup]()
    for number, (name, line) in enumerate(lines.items()):
        points, colour = square.points([*line, line[-1]]), f"k{number % SERIES}"  # twice: a single point is a dot
        title = tag("title", shown(name))
        parts.append(tag("polyline", title, class_=f"series {colour}", points=points, stroke_linecap="round"))
        names.append(tag("li", tag("b", "— ", class_=colour), shown(name)))
    return tag("figure", square.drawn(parts, axes), tag("ul", *names, class_="legend"))


def tradeoff(line: Line, best: tuple[float, float] | None, axes: Axes) -> Markup:
    """One category's precision by recall, from the left edge on, in a small square; `best` is a dot on it."""
    square = _Square(SMALL)
    from_edge = [(0.0, line[0][1]), *line]  # below the first point's recall, precision is not known to be any other
    parts = [tag("polyline", class_="fit", points=square.points(from_edge))]
    if best:
        parts.append(tag("circle", class_="point", cx=square.x(best[0]), cy=square.y(best[1]), r=5))
    return square.drawn(parts, axes)


def reliability(bins: Sequence[Reliable], axes: Axes, words: str) -> Markup:
    """Accuracy by confidence, with the diagonal on which a calibrated model's bins are; empty without bins.

    A dot's area grows with its count. `words` says what a bin is, with `{confidence}`, `{accuracy}` and `{count}`.
    """
    if not bins:
        return Markup()
    square, most = _Square(SQUARE), max(one.count for one in bins)
    parts = [square.diagonal()]
    for one in bins:
        x, radius = square.x(one.confidence), max(_LEAST, _MOST * math.sqrt(one.count / most))
        said = {"confidence": f"{100 * one.confidence:.0f} %", "accuracy": f"{100 * one.accuracy:.0f} %"}
        title = tag("title", words.format(count=f"{one.count:,}", **said))
        parts += [
            tag("line", class_="whisker", x1=x, x2=x, y1=square.y(one.low), y2=square.y(one.high)),
            tag("circle", title, class_="point", cx=x, cy=square.y(one.accuracy), r=f"{radius:.1f}"),
        ]
    return square.drawn(parts, axes)


def learning_curve(points: Sequence[Measured], law: Callable[[float], float] | None, axes: Axes) -> Markup:
    """The points with their intervals, and the law fitted to them, to twice the images; empty below two points."""
    if len(points) < 2:
        return Markup()
    bottom = max(0.0, math.floor(min(one.low for one in points) * 10) / 10)
    ends = math.log(points[0].images), math.log(points[-1].images * 2)

    def x(images: float) -> float:
        return round(LEFT + (WIDTH - LEFT - EDGE) * (math.log(images) - ends[0]) / (ends[1] - ends[0]), 1)

    def y(value: float) -> float:
        share = (min(1.0, max(bottom, value)) - bottom) / ((1 - bottom) or 1)
        return round((HEIGHT - BOTTOM) - (HEIGHT - BOTTOM - TOP) * share, 1)

    parts = [_level(y(value), f"{100 * value:.0f}", WIDTH - EDGE) for value in (bottom, (bottom + 1) / 2, 1.0)]
    if law:
        counts = (math.exp(ends[0] + (ends[1] - ends[0]) * step / _STEPS) for step in range(_STEPS + 1))
        parts.append(tag("polyline", class_="fit", points=" ".join(f"{x(count)},{y(law(count))}" for count in counts)))
    for one in points:
        title = tag("title", f"{one.images:.1f}: {100 * one.value:.1f} %")
        parts += [
            tag("line", class_="whisker", x1=x(one.images), x2=x(one.images), y1=y(one.low), y2=y(one.high)),
            tag("circle", title, class_="point", cx=x(one.images), cy=y(one.value), r=4),
            _below(x(one.images), f"{one.images:.0f}", HEIGHT - BOTTOM + 18),
        ]
    return _drawing(parts, (WIDTH, HEIGHT), axes)


def _drawing(parts: Sequence[Markup], size: tuple[float, float], axes: Axes) -> Markup:
    names = (
        tag("text", f"{shown(axes.across)} →", x=size[0] - EDGE, y=size[1] - 6, text_anchor="end"),
        tag("text", f"↑ {shown(axes.up)}, %", x=LEFT, y=TOP - 8),
    )
    return svg([*parts, *names], size, shown(axes.label))


def _level(y: float, label: str, end: float) -> Markup:
    line = tag("line", class_="grid", x1=LEFT, x2=f"{end:g}", y1=y, y2=y)
    return Markup(line + tag("text", label, x=LEFT - 6, y=y + 4, text_anchor="end"))


def _below(x: float, label: str, y: float) -> Markup:
    return tag("text", label, x=x, y=y, text_anchor="middle")
