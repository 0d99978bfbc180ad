"""Average precision of weighted images whose detections are matched, equal to that of pycocotools. No torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECALLS = np.linspace(0, 1, 101)

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Asked:
    """How many truths each image has of each category; those of category c are in `bounds[c]:bounds[c + 1]`."""

    images: Indices  # [p]
    counts: Indices  # [p]
    bounds: Indices  # [categories + 1]

    def support(self, weights_per_image: Ints) -> Indices:
        """[categories]: truths in the weighted images."""
        return np.diff(_running(weights_per_image[self.images] * self.counts)[self.bounds])


@dataclass(frozen=True, slots=True)
class Matched:
    """All that average precision at one IoU threshold needs, so that resampling images requires no new matching.

    The detections of category c are in `bounds[c]:bounds[c + 1]`. Ignored detections and truths are left out.
    """

    image_count: int
    images: Indices  # [d], of each detection
    scores: Floats  # [d], falling within a category
    bounds: Indices  # [categories + 1]
    hits: Indices  # [h], indices of the right detections, ascending
    peaks: Indices  # [p], indices of the hits that are not directly followed by a hit of the same category
    asked: Asked

    @property
    def truth_count(self) -> int:
        """Truths of all categories."""
        return int(self.asked.counts.sum())

    def mean_average_precision(self, weights_per_image: Ints | None = None) -> float:
        """The mean of `average_precisions` over the categories with ground truth; nan if there is none."""
        values = self.average_precisions(weights_per_image)
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def average_precisions(self, weights_per_image: Ints | None = None) -> Floats:
        """[categories], at 101 recall points; nan without ground truth.

        The weights [images] are how often each image is in the sample, by default 1 each.
        """
        weights = np.ones(self.image_count, np.int64) if weights_per_image is None else weights_per_image
        support = self.asked.support(weights)
        found = weights[self.images]
        accepted, right = _running(found), _running(found[self.hits])
        # Precision does not fall between consecutive hits, so its maxima are at the peaks.
        at_peaks = self.hits[self.peaks]
        peak_bounds = np.searchsorted(at_peaks, self.bounds)
        each = np.diff(peak_bounds)
        right_before = right[np.searchsorted(self.hits, self.bounds[:-1])]
        seen = accepted[at_peaks + 1] - np.repeat(accepted[self.bounds[:-1]], each)
        right = right[self.peaks + 1]
        precision = np.zeros(len(right) + 1)
        precision[:-1] = (right - np.repeat(right_before, each)) / np.maximum(seen, 1)
        first = np.searchsorted(right, right_before[:, None] + _needed(support))
        first = np.minimum(first, peak_bounds[1:, None])  # [categories, recalls]: the peak that reaches the recall
        # The best precision from one recall point to the next, 0 if one peak reaches both; beyond a category's last
        # point there are at most peaks of weight 0, whose precision is 0 as nothing of weight precedes them.
        edges = np.append(first.ravel(), len(right))
        best = np.maximum.reduceat(precision, edges[:-1]) if len(support) else np.empty(0)
        best = np.where(edges[1:] > edges[:-1], best, 0.0).reshape(first.shape)
        values = np.maximum.accumulate(best[:, ::-1], axis=1).mean(axis=1)
        return np.where(support > 0, values, np.nan)


def asked(images: Ints, categories: Ints, image_count: int, category_count: int) -> Asked:
    """Counts truths given in any order."""
    places, counts = np.unique(categories.astype(np.int64) * image_count + images, return_counts=True)
    bounds = np.searchsorted(places, np.arange(category_count + 1) * image_count)
    return Asked(places % max(1, image_count), counts, bounds)


def peaks(right: Bools, bounds: Indices) -> Indices:
    """`Matched.peaks`, of detections in its order."""
    followed = np.append(right[1:], False)
    followed[bounds[1:][bounds[1:] > 0] - 1] = False
    return np.flatnonzero(~followed[right])


def _running(weights: Ints) -> Indices:
    """[n + 1]: the sums of the first 0, 1, 2, … weights."""
    sums = np.zeros(len(weights) + 1, np.int64)
    np.cumsum(weights, out=sums[1:])
    return sums


def _needed(support: Indices) -> Indices:
    """[categories, recalls]: the least number of hits, at least 1, whose share of the support reaches each recall."""
    truths = np.maximum(support, 1)[:, None]
    hits = np.ceil(RECALLS * truths).astype(np.int64)
    hits -= (hits - 1) / truths >= RECALLS
    hits += hits / truths < RECALLS
    return np.maximum(hits, 1)
