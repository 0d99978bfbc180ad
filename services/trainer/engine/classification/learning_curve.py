"""How accuracy grows with the training images, measured on cached features, and what more images would be worth.

Heads in closed form are fitted on growing parts of the training folds and predict the images of the other fold. To the
accuracies a power law is fitted, a - b * n^-c (Cortes et al., 1993), with a bootstrap over images and repetitions.
`category_gains` has what more images of one category are worth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.engine.classification import logistic, power_law
from services.trainer.engine.classification.category_gains import by_category, gain_of
from services.trainer.engine.classification.discriminant import Moments
from services.trainer.engine.classification.heads import plain_coordinates
from services.trainer.engine.data import Floats, Indices
from services.trainer.insight import ADDED_IMAGES, CurvePoint, LearningCurve, PowerLaw, no_curve
from services.trainer.performance import Interval

FRACTIONS = tuple(2 ** (-step / 2) for step in range(6))  # of the training folds
LEAST_FRACTIONS = 3  # for a curve with three parameters
LEAST_IMAGES = 2  # of a category, to train on
REPETITIONS = (2, 12)  # at least, at most: each draws other parts
GROUPS = 8  # of categories that grow at the same time
DIMENSIONS = 256
MAX_IMAGES = 20_000
MAX_CELLS = 5_000_000  # categories x images, up to which the gains of categories fit into memory
BOOTSTRAPS = 400


@dataclass(frozen=True, slots=True)
class Rows:
    """Images in the coordinates of their features, each in the fold that is predicted without it."""

    coordinates: Floats
    width: int  # before they were rotated into their span
    labels: Indices
    fold: Indices
    folds: int
    categories: int

    def predicted(self, fold: int, train: Indices) -> Indices:
        """The category of each image of the fold, according to a head that was fitted on these rows."""
        weights = Moments.of(self.coordinates[train], self.labels[train], self.categories).solve(self.width)
        return logistic.apply(self.coordinates[self.fold == fold], weights).argmax(axis=1)

    def shuffled(self, fold: int, random: np.random.Generator) -> list[Indices]:
        """The training rows of each category in random order."""
        others = np.flatnonzero(self.fold != fold)
        return [random.permutation(others[self.labels[others] == label]) for label in range(self.categories)]


def learning_curve(
    blocks: Sequence[Floats],
    labels: Indices,
    fold: Indices,
    folds: int,
    names: Sequence[str],
    seed: int,
    out_of_time: Callable[[], bool],
    added: int = ADDED_IMAGES,
) -> LearningCurve:
    """From the features of each backbone, [images, width]; without a curve if there are too few images or no time.

    The gains are for `added` images more of a category. `out_of_time` is asked after each repetition.
    """
    counts = np.bincount(labels, minlength=len(names))
    fractions = usable_fractions(counts, folds)
    if len(fractions) < LEAST_FRACTIONS:
        return no_curve("A category has too few images: it takes about 6 of each to see how accuracy grows.")
    if len(labels) > MAX_IMAGES:
        return no_curve(f"It is measured for up to {MAX_IMAGES:,} images; there are {len(labels):,}.")
    random = np.random.default_rng(seed)
    coordinates, width = plain_coordinates(blocks, labels)
    rows = Rows(_projected(coordinates, random), width, labels, fold, folds, len(names))
    whole = _with_parts(rows, (1.0,), random)[0]
    with_gains = len(names) * len(labels) <= MAX_CELLS
    parts: list[NDArray[np.bool_]] = []
    grown: list[NDArray[np.int16]] = []
    while len(parts) < REPETITIONS[1]:
        parts.append(_with_parts(rows, fractions[1:], random) == labels)
        if with_gains:
            grown.append(_with_growth(rows, random))
        if out_of_time():
            break
    if len(parts) < REPETITIONS[0]:
        return no_curve("There was no time for it: it gets a tenth of what the trial takes.")
    right = np.concatenate([np.broadcast_to(whole == labels, (len(parts), 1, len(labels))), np.array(parts)], axis=1)
    samples = power_law.resampled(right, BOOTSTRAPS, random)
    sizes = _sizes(counts, fractions, folds)
    laws, law = power_law.fit(sizes, samples), power_law.fit(sizes, right.mean(axis=(0, 2))[None])
    present = counts[counts > 0].mean()
    gain, gains = law.gain(present, added), laws.gain(present, added)
    return LearningCurve(
        points=_points(sizes, right.mean(axis=(0, 2)), samples),
        power_law=PowerLaw(float(law.a[0]), float(law.b[0]), float(law.c[0])),
        gain=gain_of(float(gain[0]), gains, 0.5 / len(labels)),
        categories=by_category(labels, whole, np.array(grown), names, folds, laws.c, random, added)
        if with_gains
        else (),
    )


def usable_fractions(counts: Indices, folds: int) -> tuple[float, ...]:
    """Those that leave even the smallest category some images of the training folds, and fewer than the one before."""
    fewest = int(counts[counts > 0].min() * (folds - 1) / folds)
    shares = [round(fraction * fewest) for fraction in FRACTIONS]
    return tuple(
        fraction
        for fraction, share, before in zip(FRACTIONS, shares, [fewest + 1, *shares], strict=False)
        if LEAST_IMAGES <= share < before
    )


def _projected(coordinates: Floats, random: np.random.Generator) -> Floats:
    """The principal components, at most DIMENSIONS: fits take a fraction of the time. Uses no label."""
    if coordinates.shape[1] <= DIMENSIONS:
        return coordinates
    sample = random.permutation(coordinates)[: 4 * DIMENSIONS]
    basis = np.linalg.svd(sample, full_matrices=False)[2][:DIMENSIONS]
    return coordinates @ basis.T


def _with_parts(rows: Rows, fractions: Sequence[float], random: np.random.Generator) -> Indices:
    """[fractions, images]: what is predicted after training on nested parts of the other folds."""
    predicted = np.zeros((len(fractions), len(rows.labels)), np.int64)
    for fold in range(rows.folds):
        drawn = rows.shuffled(fold, random)
        for number, fraction in enumerate(fractions):
            train = np.concatenate([part[: _share(len(part), fraction)] for part in drawn])
            predicted[number, rows.fold == fold] = rows.predicted(fold, train)
    return predicted


def _with_growth(rows: Rows, random: np.random.Generator) -> NDArray[np.int16]:
    """[1 + categories, images]: what is predicted after training on half of the images, and with all of one category.

    If there are many categories, several grow in the same fit; for each, the images of the others are marked with -1.
    """
    predicted = np.full((1 + rows.categories, len(rows.labels)), -1, np.int16)
    groups = min(rows.categories, GROUPS)
    group = random.permutation(rows.categories) % groups
    for fold in range(rows.folds):
        out, drawn = rows.fold == fold, rows.shuffled(fold, random)
        halves = [part[: _share(len(part), 0.5)] for part in drawn]
        predicted[0, out] = rows.predicted(fold, np.concatenate(halves))
        for number in range(groups):
            grown = group == number
            kept = [drawn[label] if grown[label] else half for label, half in enumerate(halves)]
            found = rows.predicted(fold, np.concatenate(kept))
            for label in np.flatnonzero(grown):
                plain = ~grown[rows.labels[out]] | (rows.labels[out] == label)
                predicted[1 + label, out] = np.where(plain, found, -1)
    return predicted


def _share(count: int, fraction: float) -> int:
    return min(count, max(LEAST_IMAGES, round(fraction * count)))


def _sizes(counts: Indices, fractions: Sequence[float], folds: int) -> NDArray[np.float64]:
    """Images per category that are trained on, at each fraction, on average over categories and folds."""
    trained = [count * (folds - 1) / folds for count in counts[counts > 0].tolist()]
    return np.array(
        [float(np.mean([max(LEAST_IMAGES, fraction * count) for count in trained])) for fraction in fractions]
    )


def _points(
    sizes: NDArray[np.float64], values: NDArray[np.float64], samples: NDArray[np.float64]
) -> tuple[CurvePoint, ...]:
    """By ascending size."""
    limits = np.clip(np.percentile(samples, [2.5, 97.5], axis=0), 0.0, 1.0)
    return tuple(
        CurvePoint(float(size), float(value), Interval(float(low), float(high)))
        for size, value, low, high in zip(sizes[::-1], values[::-1], *limits[:, ::-1], strict=True)
    )
