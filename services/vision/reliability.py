"""How often answers are right, by the confidence that they were given with. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers of similar confidence; a calibrated model's accuracy equals its mean confidence."""

    mean_confidence: float
    accuracy: float
    count: int  # never 0

    @property
    def right(self) -> int:
        """How many of the answers are right."""
        return round(self.accuracy * self.count)


def reliability(confidences: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """The bins with answers, by rising confidence, of BINS equal ones (low, high] from 0 to 1 (Guo et al., 2017)."""
    values = confidences.astype(np.float64)
    bin_of = np.digitize(values, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    counts = np.bincount(bin_of, minlength=BINS)
    sums = np.bincount(bin_of, weights=values, minlength=BINS)
    hits = np.bincount(bin_of, weights=right, minlength=BINS)
    return tuple(
        ReliabilityBin(float(sums[place] / counts[place]), float(hits[place] / counts[place]), int(counts[place]))
        for place in np.flatnonzero(counts)
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """The expected calibration error: the mean difference of confidence and accuracy, weighted by count; 0 of none."""
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.mean_confidence - one.accuracy) for one in bins) / total if total else 0.0
