"""Which kept images to label: those that the model is unsure of, and that differ from one another.

Images are chosen one by one, each by its uncertainty times its distance to the nearest one chosen before it
(farthest-first traversal, Gonzalez 1985, weighted): ten nearly equal photos teach hardly more than one of them. For a
classifier the distance is that of its answers, which taught more than that of looks (bench/bench_suggest.py); for a
detector, whose answers say little of an image, that of looks.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.predictor.domain import RawOutput
from services.vision.card import ModelCard
from services.vision.fingerprint import HASH_BYTES
from services.vision.image_detections import ImageDetections

Distances = Callable[[int], NDArray[np.float64]]  # of all images to one of them, 0..1

BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.float64)  # set in a byte

TIE = 1e-6  # so that of images which all look like chosen ones the more uncertain are first


def confidence_of(card: ModelCard, output: RawOutput) -> float:
    """In the least certain decision: a classifier's category, or that a detector's box is there, or is not."""
    if not isinstance(output, ImageDetections):
        return float(output.max())
    if not len(output):
        return 1.0
    thresholds = np.array(card.suggested_thresholds)[output.labels]
    return float(np.where(output.scores >= thresholds, output.scores, 1 - output.scores).min())


def uncertainty_of(card: ModelCard, output: RawOutput) -> float:
    """0..1: a classifier's, by how little the best category is ahead of the second; else one minus the confidence."""
    if isinstance(output, ImageDetections) or len(output) < 2:
        return 1 - confidence_of(card, output)
    second, first = np.partition(output, -2)[-2:].tolist()
    return 1 - (first - second)


def ranked(uncertainties: Sequence[float], apart: Distances, most: int) -> list[int]:
    """The indices of at most `most` images, the most instructive first."""
    doubt: NDArray[np.float64] = np.array(uncertainties, np.float64)
    left, distance, chosen = np.ones(len(doubt), bool), np.ones(len(doubt)), list[int]()
    while len(chosen) < min(most, len(doubt)):
        best = int(np.argmax(np.where(left, doubt * (distance + TIE), -1)))
        chosen.append(best)
        left[best] = False
        distance = np.minimum(distance, apart(best))
    return chosen


def by_answers(answers: NDArray[np.float64]) -> Distances:
    """Hellinger distances of a classifier's answers: probabilities [image, category]."""
    roots = np.sqrt(answers)
    return lambda index: np.sqrt(np.maximum(0, 1 - roots @ roots[index]))


def by_looks(looks: Sequence[bytes]) -> Distances:
    """The shares of bits that differ in perceptual hashes; an image of one colour, without a hash, has no bit set."""
    hashes = np.zeros((len(looks), HASH_BYTES), np.uint8)
    for index, look in enumerate(looks):
        hashes[index, : len(look)] = np.frombuffer(look, np.uint8)
    return lambda index: BITS[hashes ^ hashes[index]].sum(axis=1) / (8 * HASH_BYTES)
