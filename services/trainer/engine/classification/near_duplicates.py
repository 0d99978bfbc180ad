"""Groups of images that nearly repeat each other: those of the snapshot, and those that features show.

The snapshot's look the same; features also tell photos of one object in a row, from other sides.

If a fold's images have near-duplicates among those that a head was fitted on, cross-validation flatters it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from services.kit import pulse
from services.trainer.engine.classification.heads import normalised
from services.trainer.engine.data import Floats, Images, Indices
from services.trainer.engine.split import Partition, bounded, divide, readable
from services.trainer.recipe import Split
from services.vision.near_duplicates import first_of

ALIKE = 0.7  # mean cosine of the centred features of two groups, from which they are one
COMPARED = 500  # images of a category at a time, in the order of their ids
MIXED = 1 / 3  # share of images whose likest one is of another category, from which likeness says nothing of labels


def divided(features: Floats, images: Images, split: Split, sound: NDArray[np.bool_]) -> Partition:
    """The hold-out and the folds of the sound images; near-duplicates are on one side."""
    group = near_duplicates(features, images.labels, split.folds, images.groups)
    return readable(divide(images.labels, split, group), sound)


def near_duplicates(features: Floats, labels: Indices, folds: int, known_groups: Indices | None = None) -> Indices:
    """[images]: the group of each within its category: the known ones, joined by average linkage of the features.

    Features with NaN join none. No group is larger than a fold's share of its category, so that every category is still
    in every fold. If images are as much like those of other categories, the features join none either: an image whose
    group left its category's others, but not its likes of other categories, would be predicted wrongly for that alone.
    """
    group = np.arange(len(labels))
    if known_groups is not None:
        by_category = first_of(known_groups * (int(labels.max()) + 1) + labels)
        group = bounded(by_category, list(labels[:, None]), folds)
    known = np.isfinite(features).all(axis=1)
    if not known.any():
        return group
    centred = normalised(features[known])
    rows = np.zeros_like(features)
    rows[known] = normalised(centred - centred.mean(axis=0))
    if _mixed(rows[known], labels[known]):
        return group
    for label in np.unique(labels[known]):
        own = np.flatnonzero(known & (labels == label))
        own = own[np.argsort(group[own], kind="stable")]
        for start, stop in _stretches(group[own]):
            some = own[start:stop]
            pulse.beat()
            similarity = np.where(group[some] == group[some][:, None], 1, rows[some] @ rows[some].T)
            group[some] = some[_linked(similarity, len(own) // folds)]
    return group


def _mixed(rows: Floats, labels: Indices) -> bool:
    """Whether, of COMPARED images that are like another, more than MIXED are most like one of another category."""
    asked = np.unique(np.linspace(0, len(rows) - 1, COMPARED).astype(np.int64))
    best, likest = np.full(len(asked), ALIKE, rows.dtype), np.full(len(asked), -1)
    for start in range(0, len(rows), COMPARED):
        pulse.beat()
        others = np.arange(start, min(start + COMPARED, len(rows)))
        similarity = np.where(asked[:, None] == others, -np.inf, rows[asked] @ rows[others].T)
        found = similarity.argmax(axis=1)
        value = similarity[np.arange(len(asked)), found]
        likest = np.where(value > best, others[found], likest)
        best = np.maximum(best, value)
    alike = likest >= 0
    return bool(alike.any() and np.mean(labels[likest[alike]] != labels[asked[alike]]) > MIXED)


def _stretches(group: Indices) -> Iterator[tuple[int, int]]:
    """Ranges of about COMPARED of the ascending groups, which cut no group; one that is larger is in none."""
    start = 0
    while start < len(group):
        stop = min(start + COMPARED, len(group))
        if stop < len(group):
            stop = int(np.searchsorted(group, group[stop]))
        if stop > start:
            yield start, stop
        else:
            stop = int(np.searchsorted(group, group[start], side="right"))
        start = stop


def _linked(similarity: Floats, most: int) -> Indices:
    """[images]: the first image of each one's group of at most that many; overwrites the similarities."""
    group, size = np.arange(len(similarity)), np.ones(len(similarity))
    np.fill_diagonal(similarity, -np.inf)
    while True:
        one, other = sorted(divmod(int(similarity.argmax()), len(similarity)))
        if similarity[one, other] < ALIKE:
            return group
        if size[one] + size[other] > most:
            similarity[one, other] = similarity[other, one] = -np.inf
            continue
        mean = (size[one] * similarity[one] + size[other] * similarity[other]) / (size[one] + size[other])
        similarity[one] = similarity[:, one] = mean
        similarity[other] = similarity[:, other] = -np.inf
        group[group == other] = one
        size[one] += size[other]
