"""Which images train, which select, and which only report: drawn by the seed, alike for all trials of a model."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from services.trainer.engine.data import Indices
from services.trainer.recipe import Split

MIN_HELD_OUT_FROM = 20  # images of the smallest category, for a hold-out to be drawn


@dataclass(frozen=True, slots=True)
class Partition:
    """Indices into the images; `fold` counts through `trainable`, in parallel."""

    trainable: Indices
    fold: Indices  # 0..folds-1
    held_out: Indices
    folds: int

    @property
    def first_fold(self) -> Indices:
        """Rung 1 validates on these."""
        return self.trainable[self.fold == 0]

    @property
    def other_folds(self) -> Indices:
        """Rung 1 trains on these."""
        return self.trainable[self.fold != 0]


def divide(labels: Indices, split: Split) -> Partition:
    """Hold-out first, then stratified folds; every category is in every fold, as far as its images go."""
    random = np.random.default_rng(split.seed)
    counts = np.bincount(labels)
    smallest = int(counts[counts > 0].min())
    held = np.zeros(len(labels), bool)
    if split.holdout_fraction > 0 and smallest >= MIN_HELD_OUT_FROM:
        held_hands, hands = share(split.holdout_fraction)
        held = _dealt(labels, hands, random) < held_hands
    trainable = np.flatnonzero(~held)
    counts = np.bincount(labels[trainable])
    folds = max(2, min(split.folds, int(counts[counts > 0].min())))
    return Partition(trainable, _dealt(labels[trainable], folds, random), np.flatnonzero(held), folds)


def share(fraction: float) -> tuple[int, int]:
    """A share of the images as hands of a deal, 0.4 as 2 of 5; no more hands than the smallest category has images."""
    return Fraction(fraction).limit_denominator(MIN_HELD_OUT_FROM).as_integer_ratio()


def _dealt(labels: Indices, hands: int, random: np.random.Generator) -> Indices:
    """Deals each category's images out in random order, going on where the last category stopped."""
    hand = np.empty(len(labels), np.int64)
    shift = 0
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        hand[rows] = (np.arange(len(rows)) + shift) % hands
        shift += len(rows)
    return hand


def readable(partition: Partition, sound: NDArray[np.bool_]) -> Partition:
    """The same division without the images that cannot be read."""
    kept, held_out = sound[partition.trainable], partition.held_out[sound[partition.held_out]]
    return Partition(partition.trainable[kept], partition.fold[kept], held_out, partition.folds)
