"""Groups of images that nearly repeat each other, such as photos of one object in a row.

If a fold's images have near-duplicates among those that a head was fitted on, cross-validation flatters it.
"""

import numpy as np
from numpy.typing import NDArray

from services.kit import pulse
from services.trainer.engine.classification.heads import normalised
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.split import Partition, divide, readable
from services.trainer.recipe import Split

ALIKE = 0.7  # mean cosine of the centred features of two groups, from which they are one
COMPARED = 500  # images of a category at a time, in the order of their ids


def divided(features: Floats, labels: Indices, split: Split, sound: NDArray[np.bool_]) -> Partition:
    """The hold-out and the folds of the sound images; near-duplicates by these features are on one side."""
    return readable(divide(labels, split, near_duplicates(features, labels, split.folds)), sound)


def near_duplicates(features: Floats, labels: Indices, folds: int) -> Indices:
    """[images]: the group of each, by average linkage within its category; rows with NaN are alone.

    No group is larger than a fold's share of its category, so that every category is still in every fold.
    """
    group = np.arange(len(labels))
    known = np.isfinite(features).all(axis=1)
    if not known.any():
        return group
    centred = normalised(features[known])
    rows = np.zeros_like(features)
    rows[known] = normalised(centred - centred.mean(axis=0))
    for label in np.unique(labels[known]):
        own = np.flatnonzero(known & (labels == label))
        for start in range(0, len(own), COMPARED):
            some = own[start : start + COMPARED]
            pulse.beat()
            group[some] = some[_linked(rows[some] @ rows[some].T, len(own) // folds)]
    return group


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
