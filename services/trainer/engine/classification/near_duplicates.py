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


def divided(features: Floats, images: Images, split: Split, sound: NDArray[np.bool_]) -> Partition:
    """The hold-out and the folds of the sound images; near-duplicates are on one side."""
    group = near_duplicates(features, images.labels, split.folds, images.groups)
    return readable(divide(images.labels, split, group), sound)


def near_duplicates(features: Floats, labels: Indices, folds: int, known_groups: Indices | None = None) -> Indices:
    """[images]: the group of each within its category: the known ones, joined by average linkage of the features.

    Features with NaN join none. No group is larger than a fold's share of its category, so that every category is still
    in every fold.
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
    for label in np.unique(labels[known]):
        own = np.flatnonzero(known & (labels == label))
        own = own[np.argsort(group[own], kind="stable")]
        for start, stop in _stretches(group[own]):
            some = own[start:stop]
            pulse.beat()
            similarity = np.where(group[some] == group[some][:, None], 1, rows[some] @ rows[some].T)
            group[some] = some[_linked(similarity, len(own) // folds)]
    return group


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
