"""Which kept images to label: those that the model is unsure of, and that differ from one another.

Images are chosen one by one, each by its uncertainty times its distance to the nearest one chosen before it
(farthest-first traversal, Gonzalez 1985, weighted): ten nearly equal photos teach hardly more than one of them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.predictor.domain import RawOutput
from services.vision.card import ModelCard
from services.vision.fingerprint import HASH_BYTES
from services.vision.image_detections import ImageDetections

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


def ranked(uncertainties: Sequence[float], looks: Sequence[bytes], most: int) -> list[int]:
    """The indices of at most `most` images, the most instructive first; `looks` are perceptual hashes, or empty."""
    count = len(looks)
    hashes = np.zeros((count, HASH_BYTES), np.uint8)
    for index, look in enumerate(looks):
        hashes[index, : len(look)] = np.frombuffer(look, np.uint8)
    doubt: NDArray[np.float64] = np.array(uncertainties, np.float64)
    left, distance, chosen = np.ones(count, bool), np.ones(count), list[int]()
    while len(chosen) < min(most, count):
        best = int(np.argmax(np.where(left, doubt * (distance + TIE), -1)))
        chosen.append(best)
        left[best] = False
        apart = BITS[hashes ^ hashes[best]].sum(axis=1) / (8 * HASH_BYTES)
        distance = np.minimum(distance, apart)
    return chosen
