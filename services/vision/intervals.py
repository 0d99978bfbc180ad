"""Confidence intervals of metrics. No torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_Z = 1.959964  # of the standard normal distribution, for two-sided 95 %


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided 95 % confidence interval."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int) -> Interval:
    """The interval of a proportion (Wilson, 1927); 0..1 without trials."""
    if trials == 0:
        return Interval(0.0, 1.0)
    z2 = CONFIDENCE_Z**2
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = CONFIDENCE_Z / (1 + z2 / trials) * (share * (1 - share) / trials + z2 / (4 * trials**2)) ** 0.5
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def resampling_interval(value: float, resampled: NDArray[np.float64], count: int) -> Interval:
    """The percentiles of at least 100 resamples; of fewer, 1.96 standard deviations around the value itself.

    Resamples repeat images, which flatters average precision; the value itself, of few images, flatters about as much.
    So the lower limit is lowered by twice the excess of the resamples' mean over the value, and the upper one by once
    (Efron and Tibshirani, 1993, chapter 10, on the bootstrap's estimate of bias). The interval contains the value. If
    all is right or all is wrong, resamples cannot differ; then it is Wilson's for `count` images or regions.
    """
    if value in (0.0, 1.0) and len(resampled) and np.all(resampled == value):
        return wilson_interval(round(value * count), count)
    if len(resampled) >= 100:
        low, high = np.percentile(resampled, [2.5, 97.5])
        excess = max(0.0, float(np.mean(resampled)) - value)
        return Interval(max(0.0, min(float(low) - 2 * excess, value)), max(float(high) - excess, value))
    half = CONFIDENCE_Z * float(np.std(resampled)) if len(resampled) else 1.0
    return Interval(max(0.0, value - half), min(1.0, value + half))
