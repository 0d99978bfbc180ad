"""What more images of one category are worth while the others stay, measured from half of the images of all.

There are two answers. The category's recall: more of its images are recognised. And the net: less the images of other
categories that are then taken for it. With more images a category is also predicted more often, which raises its recall
alone, and is worth nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.trainer.engine.classification import power_law
from services.trainer.engine.data import Indices
from services.trainer.insight import CategoryGain, Gain
from services.trainer.performance import Interval

Floats = NDArray[np.float64]


def by_category(
    labels: Indices,
    whole: Indices,
    grown: NDArray[np.int16],
    names: Sequence[str],
    folds: int,
    exponents: Floats,
    random: np.random.Generator,
    added: int,
) -> tuple[CategoryGain, ...]:
    """The gains of `added` images more, the largest first.

    `whole` [images] was predicted by heads fitted on all other folds; `grown` [repetitions, 1 + categories, images] by
    heads that had half of them, and then by heads that had all of one category, -1 where that does not count.
    `exponents` are samples of the exponent by which accuracy grows.
    """
    counts = np.bincount(labels, minlength=len(names))
    present = np.flatnonzero(counts)
    measured: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for label in present.tolist():
        change = _changes(labels, grown[:, 0], grown[:, 1 + label], label)
        own = np.where(labels == label, change, 0.0)
        measured.append((_measured(own, int(counts[label])), _measured(change, int(counts[label]))))
    missed = np.array([((labels == label) & (whole != label)).sum() for label in present])
    room = (missed + 0.5) / (counts[present] + 1)
    recalls, nets = (_expected(np.array(each), room) for each in zip(*measured, strict=True))
    gains: list[CategoryGain] = []
    for place, label in enumerate(present.tolist()):
        count, most = int(counts[label]), missed[place] / counts[label]
        trained = count * (folds - 1) / folds
        factor = _drop(count, count + added, exponents) / _drop(trained / 2, trained, exponents)
        noise = random.normal(size=len(exponents))
        recall, net = (
            gain_of(
                min(float(mean[place] * np.median(factor)), most),
                np.minimum((mean[place] + deviation[place] * noise) * factor, most),
                0.0,
            )
            for mean, deviation in (recalls, nets)
        )
        gains.append(CategoryGain(names[label], count, 1 - float(most), recall, net))
    return tuple(sorted(gains, key=lambda one: -one.gain.value))


def _measured(changes: Floats, count: int) -> tuple[float, float]:
    """(mean, squared error) of the change [repetitions, images] of a category of so many images, per image of it."""
    shares = changes / count
    return float(shares.sum(axis=1).mean()), _squared_error(shares, count)


def _expected(measured: Floats, room: Floats) -> tuple[Floats, Floats]:
    """(mean, standard error) of each category's change, from (mean, squared error) as measured.

    Drawn to the mean of all in proportion to the room for improvement: a category can only gain what it lacks.
    """
    sums, errors = measured.T
    ratios, deviations = power_law.shrunk(sums / room, errors / room**2)
    return ratios * room, deviations * room


def gain_of(value: float, samples: Floats, least: float) -> Gain:
    """With the samples' interval, at least as wide to both sides of the value as the least error."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return Gain(float(value), Interval(float(min(low, value - least)), float(max(high, value + least))))


def _changes(labels: Indices, before: NDArray[np.int16], after: NDArray[np.int16], label: int) -> Floats:
    """[repetitions, images]: 1 where an image is right only after the category has grown, -1 where only before.

    Images of other categories count where either takes them for this one.
    """
    concerned = (labels == label) | (before == label) | (after == label)
    change = (after == labels).astype(np.float64) - (before == labels)
    return np.where(concerned & (after >= 0), change, 0.0)


def _squared_error(changes: Floats, count: int) -> float:
    """Of the sum of a category's changes: by the images that were measured and by those that were drawn.

    Never 0: of a few images, equal results prove little.
    """
    by_image = np.square(changes.mean(axis=0)).sum() + 0.25 / count**2
    by_draw = changes.sum(axis=1).var(ddof=1) / len(changes)
    return float(by_image + by_draw)


def _drop(few: float, many: float, exponents: Floats) -> Floats:
    """How far n^-c falls from few to many images."""
    return np.asarray(few**-exponents - many**-exponents, np.float64)
