"""Which images train, which select, and which only report: drawn by the seed, the same for all trials of a model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from services.trainer.engine.data import Indices
from services.trainer.recipe import MIN_HELD_OUT_FROM, Split


@dataclass(frozen=True, slots=True)
class Partition:
    """Indices of images; `fold` is parallel to `trainable`."""

    trainable: Indices
    fold: Indices  # 0..folds-1
    held_out: Indices
    folds: int

    @property
    def first_fold(self) -> Indices:
        """What fine-tunings validate on."""
        return self.trainable[self.fold == 0]

    @property
    def other_folds(self) -> Indices:
        """What fine-tunings train on."""
        return self.trainable[self.fold != 0]


def divide(labels: Indices, split: Split, group: Indices | None = None) -> Partition:
    """Hold-out first, then stratified folds: a category is in every fold if it has enough images.

    Images of one category and one group (by default, each image is its own) stay together.
    """
    group = np.arange(len(labels)) if group is None else group
    random = np.random.default_rng(split.seed)
    counts = np.bincount(labels)
    smallest = int(counts[counts > 0].min())
    held = np.zeros(len(labels), bool)
    if split.holdout_fraction > 0 and smallest >= MIN_HELD_OUT_FROM:
        held_parts, parts = share(split.holdout_fraction)
        held = _dealt(labels, parts, random, group) < held_parts
    trainable = np.flatnonzero(~held)
    counts = np.bincount(labels[trainable])
    folds = fold_count(split, counts)
    return Partition(trainable, _dealt(labels[trainable], folds, random, group[trainable]), np.flatnonzero(held), folds)


def fold_count(split: Split, counts: Indices) -> int:
    """The split's, or fewer if most categories have fewer images: a rare one does not decide how many train."""
    return max(2, min(split.folds, int(np.median(counts[counts > 0]))))


def bounded(group: Indices, categories: Sequence[Indices], parts: int) -> Indices:
    """[images]: the groups, cut where one would have more than a part's share of a category or of all images.

    So no part lacks a category because all its images are near-duplicates. `categories` has those of each image.
    """
    everything = 1 + max((int(each.max()) for each in categories if len(each)), default=-1)
    present = [np.append(each, everything) for each in categories]
    most = np.maximum(np.bincount(np.concatenate(present)) // parts, 1)
    piece = np.arange(len(group))
    first, held = dict[int, int](), dict[int, Counter[int]]()
    for image, (label, those) in enumerate(zip(group.tolist(), present, strict=True)):
        if label not in first or any(held[label][each] >= most[each] for each in those.tolist()):
            first[label], held[label] = image, Counter()
        piece[image] = first[label]
        held[label].update(those.tolist())
    return piece


def share(fraction: float) -> tuple[int, int]:
    """A fraction as (hold-out parts, parts): 0.4 is 2 of 5. There are at most MIN_HELD_OUT_FROM parts."""
    return Fraction(fraction).limit_denominator(MIN_HELD_OUT_FROM).as_integer_ratio()


def _dealt(labels: Indices, parts: int, random: np.random.Generator, group: Indices) -> Indices:
    """[images]: the part of each, dealt in random order, category after category, large groups first."""
    part = np.empty(len(labels), np.int64)
    shift = 0
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        filled = [0] * parts
        for members in _together(rows, group[rows]):
            chosen = min(range(parts), key=lambda each: (filled[each], (each - shift) % parts))
            part[members] = chosen
            filled[chosen] += len(members)
        shift += len(rows)
    return part


def _together(rows: Indices, group: Indices) -> list[Indices]:
    """The rows of each group, the largest group first, otherwise in the order of the rows."""
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    members = np.split(rows[order], np.cumsum(np.bincount(inverse))[:-1])
    return [members[each] for each in sorted(range(len(members)), key=lambda each: (-len(members[each]), first[each]))]


def readable(partition: Partition, sound: NDArray[np.bool_]) -> Partition:
    """The same partition without the unreadable images."""
    kept, held_out = sound[partition.trainable], partition.held_out[sound[partition.held_out]]
    return Partition(partition.trainable[kept], partition.fold[kept], held_out, partition.folds)
