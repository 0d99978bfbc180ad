"""Precision-recall curves. No torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CURVE_POINTS = 100  # per category, at most


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Precision and recall when scores at or above `threshold` are accepted."""

    threshold: float
    precision: float
    recall: float


def threshold_below(lowest: float, scores: NDArray[np.floating[Any]]) -> float:
    """Halfway from the lowest score that is to be accepted to the next lower of the scores, or to 0.

    It accepts the same scores as `lowest` does, and others like these, of which half would be just below it.
    """
    next_lower = float(scores[scores < lowest].max(initial=0.0))
    halfway = (lowest + next_lower) / 2
    return halfway if scores.dtype.type(halfway) > next_lower else lowest


def thinned_curve(
    thresholds: NDArray[np.floating[Any]], precision: NDArray[np.float64], recall: NDArray[np.float64]
) -> tuple[CurvePoint, ...]:
    """The points sorted by threshold, the first of equal ones, evenly thinned to CURVE_POINTS."""
    _, first = np.unique(thresholds, return_index=True)
    if len(first) > CURVE_POINTS:
        first = first[np.linspace(0, len(first) - 1, CURVE_POINTS).round().astype(np.int64)]
    return tuple(CurvePoint(float(thresholds[i]), float(precision[i]), float(recall[i])) for i in first)
