"""Finds images whose perceptual hashes nearly agree, in time that grows with n log n. No torch.

Each of 16 passes sorts the hashes from another pair of bytes on, and compares each with its neighbours in that order:
two hashes that differ in few bits agree in some of the pairs, where they are neighbours. Of more than NEIGHBOURS that
resemble one hash, only some are compared with it, which still links them all.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from services.vision.fingerprint import BRIGHTNESS_BYTES, HASH_BYTES

ALIKE_BITS = 24  # of 256, in which near-duplicates differ at most; measured in docs/benchmarks.md
ALIKE_COLOUR_BITS = 5  # of these, in the colour differences
NEIGHBOURS = 16  # on each side
_PASS_BYTES = 2

Hashes = NDArray[np.uint8]  # [images, HASH_BYTES]
Indices = NDArray[np.int64]


def near_groups(hashes: Hashes) -> Indices:
    """[images]: the first image of each one's group: near-duplicates, and whatever they link, are one group."""
    distinct, place = np.unique(hashes, axis=0, return_inverse=True)
    first = np.arange(len(distinct))
    for start in range(0, HASH_BYTES, _PASS_BYTES):
        order = _order(distinct, start)
        links = [np.empty((2, 0), np.int64)]
        for step in range(1, NEIGHBOURS + 1):
            pairs = np.stack((order[:-step], order[step:]))
            pairs = pairs[:, first[pairs[0]] != first[pairs[1]]]
            links.append(pairs[:, _distances(distinct[pairs[0]], distinct[pairs[1]]) <= ALIKE_BITS])
        first = linked(first, *np.concatenate(links, axis=1))
    return first_of(first[place.ravel()])


def closest(hashes: Hashes, among: Hashes) -> tuple[Indices, Indices]:
    """For each hash its nearest near-duplicate `among` others and the distance in bits; -1 for both if it has none."""
    distance = np.full(len(hashes), HASH_BYTES * 8)
    nearest = np.full(len(hashes), -1)
    for start in range(0, HASH_BYTES, _PASS_BYTES):
        for there in _candidates(hashes, among, start):
            found = _distances(hashes, among[there])
            better = (found < distance) | ((found == distance) & (there < nearest))
            distance[better], nearest[better] = found[better], there[better]
    known = distance <= ALIKE_BITS
    return np.where(known, nearest, -1), np.where(known, distance, -1)


def _candidates(hashes: Hashes, among: Hashes, start: int) -> Iterator[Indices]:
    """[hashes] times 2 NEIGHBOURS: where each hash's neighbours are in the order from byte `start` on."""
    if not len(among):
        return
    order = _order(among, start)
    place = np.searchsorted(_keys(among, start)[order], _keys(hashes, start))
    for step in range(-NEIGHBOURS, NEIGHBOURS):
        yield order[np.clip(place + step, 0, len(order) - 1)]


def _order(hashes: Hashes, start: int) -> Indices:
    return np.argsort(_keys(hashes, start), kind="stable")


def _keys(hashes: Hashes, start: int) -> NDArray[np.bytes_]:
    """Each hash as one value to sort by, rotated so that byte `start` comes first."""
    return np.ascontiguousarray(np.roll(hashes, -start, axis=1)).view(f"S{HASH_BYTES}").ravel()


def _distances(ones: Hashes, others: Hashes) -> Indices:
    """In bits; beyond all distances for pairs whose colours differ."""
    bits = np.bitwise_count(ones.view(np.uint64) ^ others.view(np.uint64)).astype(np.int64)
    colour = bits[:, BRIGHTNESS_BYTES // 8 :].sum(axis=1)
    return np.where(colour <= ALIKE_COLOUR_BITS, bits.sum(axis=1), HASH_BYTES * 8)


def linked(first: Indices, ones: Indices, others: Indices) -> Indices:
    """The groups after each pair's two are joined; a group is named by its smallest member."""
    while True:
        joined = first.copy()
        np.minimum.at(joined, first[ones], first[others])
        np.minimum.at(joined, first[others], first[ones])
        while not np.array_equal(joined, joined[joined]):
            joined = joined[joined]
        if np.array_equal(joined, first):
            return first
        first = joined


def first_of(labels: NDArray[np.generic]) -> Indices:
    """[items]: the first item that has the same label."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse]
