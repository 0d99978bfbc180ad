"""Fits accuracies by the number of training images: a - b * n^-c, with c in a grid and a and b in closed form."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXPONENTS = np.geomspace(0.1, 1.6, 25)
USUAL, SPREAD = 0.5, 0.7  # of the exponent: its median over image sets, and the deviation of its logarithm

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PowerLaws:
    """Curves a - b * n^-c, one per element; 0 <= a <= 1 and b >= 0."""

    a: Floats
    b: Floats
    c: Floats

    def at(self, count: float) -> Floats:
        """The values for so many images per category."""
        return self.a - self.b * count**-self.c

    def gain(self, count: float, added: float) -> Floats:
        """The rise with `added` images more."""
        return self.at(count + added) - self.at(count)


def fit(sizes: Floats, values: Floats, noise: float = 0.01) -> PowerLaws:
    """The curves through values [curves, sizes]; the exponent is drawn to the usual one where they do not tell it.

    `noise` is the error of a value that is not due to the curve.
    """
    a, b, misfits = (np.empty((len(EXPONENTS), len(values))) for _ in range(3))
    for number, exponent in enumerate(EXPONENTS):
        x = sizes**-exponent
        centred = x - x.mean()
        slope = np.minimum(0.0, (values * centred).sum(axis=1) / np.square(centred).sum())
        level = values.mean(axis=1) - slope * x.mean()
        high = level > 1  # then the best line through (0, 1)
        slope = np.where(high, np.minimum(0.0, ((values - 1) * x).sum(axis=1) / np.square(x).sum()), slope)
        a[number], b[number] = np.minimum(level, 1.0), -slope
        misfits[number] = np.square(a[number][:, None] + slope[:, None] * x - values).sum(axis=1) / noise**2
    prior = np.square(np.log(EXPONENTS / USUAL) / SPREAD)
    best = np.argmin(misfits + prior[:, None], axis=0)
    which = best, np.arange(len(values))
    return PowerLaws(a[which], b[which], EXPONENTS[best])


def resampled(right: NDArray[np.bool_], count: int, random: np.random.Generator) -> Floats:
    """[count, sizes]: accuracies of samples of the repetitions and images of `right` [repetitions, sizes, images]."""
    repetitions, _, images = right.shape
    samples = np.empty((count, right.shape[1]))
    for number in range(count):
        drawn = np.bincount(random.integers(repetitions, size=repetitions), minlength=repetitions)
        shown = np.bincount(random.integers(images, size=images), minlength=images)
        samples[number] = np.einsum("r,rsi,i->s", drawn / repetitions, right, shown / images, optimize=True)
    return samples


def shrunk(means: Floats, squared_errors: Floats) -> tuple[Floats, Floats]:
    """(mean, standard error) of each group, drawn to the mean of all as far as the groups do not differ.

    An empirical Bayes estimate (DerSimonian and Laird, 1986).
    """
    weights = 1 / squared_errors
    mean = (weights * means).sum() / weights.sum()
    excess = (weights * np.square(means - mean)).sum() - (len(means) - 1)
    scale = weights.sum() - np.square(weights).sum() / weights.sum()
    between = max(0.0, excess / scale) if scale > 0 else 0.0
    kept = between / (between + squared_errors)
    pooled = 1 / weights.sum()
    return kept * means + (1 - kept) * mean, np.sqrt(kept * squared_errors + np.square(1 - kept) * pooled)
