"""Learning curves and precision-recall curves as points of drawings."""

import math
from dataclasses import dataclass

from sightline.v1.insight_pb2 import LearningCurve
from sightline.v1.performance_pb2 import ModelPerformance

WIDTH, HEIGHT, LEFT, BOTTOM = 520.0, 220.0, 44.0, 28.0
SQUARE = 200.0  # pixels of a side of a precision-recall curve
_STEPS = 24


@dataclass(frozen=True, slots=True)
class Dot:
    """A measured point, in pixels, with its interval."""

    x: float
    y: float
    low: float
    high: float
    label: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """The curve in a frame of WIDTH × HEIGHT; images grow to the right on a logarithmic axis."""

    dots: list[Dot]
    line: str  # of an SVG polyline: the fitted power law
    marks: list[tuple[float, str]]  # of the upright axis


def learning_curve(curve: LearningCurve) -> Drawing | None:
    """The drawing; None without at least two points."""
    points = list(curve.points)
    if len(points) < 2:
        return None
    least = min(point.interval.low or point.value for point in points)
    bottom = max(0.0, math.floor(least * 10) / 10)
    ends = math.log(points[0].images_per_category), math.log(points[-1].images_per_category * 2)

    def across(images: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 12) * (math.log(images) - ends[0]) / (ends[1] - ends[0]), 1)

    def down(value: float) -> float:
        share = (min(1.0, max(bottom, value)) - bottom) / (1 - bottom or 1)
        return round((HEIGHT - BOTTOM) - (HEIGHT - BOTTOM - 12) * share, 1)

    dots = [
        Dot(
            across(point.images_per_category),
            down(point.value),
            down(point.interval.low if point.HasField("interval") else point.value),
            down(point.interval.high if point.HasField("interval") else point.value),
            f"{point.images_per_category:.0f}",
        )
        for point in points
    ]
    law = curve.power_law
    counts = [math.exp(ends[0] + (ends[1] - ends[0]) * step / _STEPS) for step in range(_STEPS + 1)]
    line = " ".join(f"{across(n)},{down(law.a - law.b * n**-law.c)}" for n in counts) if law.b else ""
    marks = [(down(value), f"{100 * value:.0f}") for value in (bottom, (bottom + 1) / 2, 1.0)]
    return Drawing(dots, line, marks)


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Precision against recall of one category, in a frame of SQUARE × SQUARE with recall to the right."""

    name: str
    line: str  # of an SVG polyline
    at: tuple[float, float] | None  # the point at the threshold with the best F1; None without one
    average_precision: float | None
    threshold: float | None


def tradeoffs(performance: ModelPerformance, names: list[str]) -> list[Tradeoff]:
    """The curves of these categories, in this order, without those that have none."""
    return [_tradeoff(performance, name) for name in names if performance.precision_recall_curves[name].recalls]


def _tradeoff(performance: ModelPerformance, name: str) -> Tradeoff:
    curve, tag = performance.precision_recall_curves[name], performance.tag_performance[name]
    points = [_place(recall, precision) for recall, precision in zip(curve.recalls, curve.precisions, strict=True)]
    # From the left edge on: below the first point's recall, precision is not known to be any other.
    line = [_place(0.0, curve.precisions[0]), *points]
    best = tag.HasField("precision") and tag.HasField("recall")
    return Tradeoff(
        name,
        " ".join(f"{x},{y}" for x, y in line),
        _place(tag.recall, tag.precision) if best else None,
        tag.average_precision_50 if tag.HasField("average_precision_50") else None,
        tag.suggested_threshold if tag.HasField("suggested_threshold") else None,
    )


def _place(recall: float, precision: float) -> tuple[float, float]:
    return round(SQUARE * recall, 1), round(SQUARE * (1 - precision), 1)
