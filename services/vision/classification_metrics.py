"""A classifier's metrics, as the contract defines them, with their confidence intervals.

Scores are [images, categories] probabilities, targets [images] category indices: one per image. Average
precision is scikit-learn's `average_precision_score`, averaged over the categories that have ground truth.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.kit import pulse
from services.vision.intervals import Interval, resampling_interval, wilson_interval
from services.vision.precision_recall import CurvePoint, thinned_curve, threshold_below
from services.vision.reliability import ReliabilityBin, calibration_error, reliability

BOOTSTRAP_CELLS = 200_000_000  # scores resampled in total; takes a few seconds

Scores = NDArray[np.floating[Any]]
Targets = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CategoryReport:
    """One category. Precision, recall and F1 are of the top-1 decision; all are 0 if undefined."""

    support: int  # images of this category
    recall: float  # also the tag's accuracy
    precision: float
    f1: float
    average_precision: float
    suggested_threshold: float  # of the best F1 when only this category is decided; 0.5 without support
    curve: tuple[CurvePoint, ...]  # by ascending threshold


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """How many images of category `actual` were predicted as `predicted`; never 0."""

    actual: int
    predicted: int
    count: int


@dataclass(frozen=True, slots=True)
class ClassificationReport:
    """A classifier's performance on one set of images."""

    image_count: int
    average_precision: float
    accuracy_top1: float
    accuracy_top5: float
    calibration_ece: float  # of the top-1 confidence
    reliability: tuple[ReliabilityBin, ...]  # of the top-1 decision
    intervals: dict[str, Interval]  # of average_precision, accuracy_top1 and accuracy_top5
    categories: tuple[CategoryReport, ...]  # in the order of the scores' columns
    confusion: tuple[ConfusionCell, ...]  # by actual, then predicted


def classification_report(scores: Scores, targets: Targets) -> ClassificationReport:
    """All metrics. Raises ValueError for inconsistent input."""
    _require_sound(scores, targets)
    count = len(targets)
    top1, top5 = accuracy(scores, targets, 1), accuracy(scores, targets, 5)
    precision_interval = bootstrap_interval(scores, targets)
    cells, bins = confusion(scores, targets), top1_reliability(scores, targets)
    return ClassificationReport(
        image_count=count,
        average_precision=average_precision(scores, targets),
        accuracy_top1=top1,
        accuracy_top5=top5,
        calibration_ece=calibration_error(bins),
        reliability=bins,
        intervals={
            "average_precision": precision_interval,
            "accuracy_top1": wilson_interval(round(top1 * count), count),
            "accuracy_top5": wilson_interval(round(top5 * count), count),
        },
        categories=_category_reports(scores, targets, cells),
        confusion=cells,
    )


def average_precision(scores: Scores, targets: Targets) -> float:
    """The mean over categories with ground truth; 0 without any."""
    values = [float(precision.mean()) for _, _, precision, _ in _curves(scores, targets)]
    return float(np.mean(values)) if values else 0.0


def accuracy(scores: Scores, targets: Targets, k: int) -> float:
    """The share of images whose category is among the k highest scores; with ties, the lower index ranks higher."""
    if not len(targets):
        return 0.0
    own = scores[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(scores.shape[1])[None, :] < targets[:, None]
    rank = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    return float((rank < k).mean())


def top1_reliability(scores: Scores, targets: Targets) -> tuple[ReliabilityBin, ...]:
    """How often the highest score's category is right, by that score."""
    predicted = scores.argmax(axis=1)
    return reliability(scores[np.arange(len(targets)), predicted], predicted == targets)


def confusion(scores: Scores, targets: Targets) -> tuple[ConfusionCell, ...]:
    """The confusion matrix of the top-1 decision, without zeros."""
    categories = scores.shape[1]
    codes, counts = np.unique(targets.astype(np.int64) * categories + scores.argmax(axis=1), return_counts=True)
    return tuple(
        ConfusionCell(*divmod(int(code), categories), count=int(count))
        for code, count in zip(codes, counts, strict=True)
    )


def expected_thresholds(scores: Scores, targets: Targets) -> Floats:
    """[categories]: with the best F1 that is to be expected of images like these, if the scores are probabilities.

    That is half of this F1 (Lipton et al., 2014, "Optimal Thresholding of Classifiers to Maximize F1 Measure"). Labels,
    of which a category of few images has too few to tell a threshold, count only in that a category without any gets
    0.5. At least one image.
    """
    falling = -np.sort(-scores.astype(np.float64), axis=0)
    accepted = np.arange(1, len(scores) + 1)[:, None]
    best = (2 * np.cumsum(falling, axis=0) / (accepted + falling.sum(axis=0))).max(axis=0)
    return np.where(np.bincount(targets, minlength=scores.shape[1]) > 0, best / 2, 0.5)


def _best_thresholds(scores: Scores, targets: Targets) -> Floats:
    """[categories]: the best F1 on these images, by `threshold_below`; 0.5 without images of the category."""
    found = np.full(scores.shape[1], 0.5)
    for category, thresholds, precision, recall in _curves(scores, targets):
        best = np.argmax(2 * precision * recall / (precision + recall))
        found[category] = threshold_below(float(thresholds[best]), scores[:, category])
    return found


def bootstrap_interval(scores: Scores, targets: Targets, *, seed: int = 0) -> Interval:
    """The interval of the average precision, from 20 to 500 resamples of the images, depending on the scores' size."""
    if not len(targets):
        return Interval(0.0, 1.0)
    random = np.random.default_rng(seed)
    rounds = min(500, max(20, BOOTSTRAP_CELLS // max(1, scores.size)))
    values: list[float] = []
    for _ in range(rounds):
        pulse.beat()
        chosen = random.integers(0, len(targets), len(targets))
        values.append(average_precision(scores[chosen], targets[chosen]))
    return resampling_interval(average_precision(scores, targets), np.array(values), len(targets))


def _curves(scores: Scores, targets: Targets) -> Iterator[tuple[int, Scores, Floats, Floats]]:
    """(category, thresholds, precision, recall) of each category with ground truth, one point per positive image.

    Only positives are sorted: a threshold between two of them does not change the recall, so it adds nothing to the
    average precision, which is the mean of the precisions, ties included, as each positive adds the same recall.
    """
    columns = np.ascontiguousarray(scores.T)
    for category in np.unique(targets):
        column = columns[category]
        positives = np.sort(column[targets == category])
        below = np.bincount(np.searchsorted(positives, column, side="right"), minlength=len(positives) + 1)
        accepted = len(column) - np.cumsum(below)[:-1]
        right = len(positives) - np.searchsorted(positives, positives, side="left")
        yield int(category), positives, right / accepted, right / len(positives)


def _category_reports(scores: Scores, targets: Targets, cells: tuple[ConfusionCell, ...]) -> tuple[CategoryReport, ...]:
    categories = scores.shape[1]
    support = np.bincount(targets, minlength=categories)
    predicted, right = np.zeros(categories, np.int64), np.zeros(categories, np.int64)
    for cell in cells:
        predicted[cell.predicted] += cell.count
        right[cell.actual] += cell.count if cell.actual == cell.predicted else 0
    nothing = (np.empty(0), np.empty(0), np.empty(0))
    curves = {category: (thresholds, p, r) for category, thresholds, p, r in _curves(scores, targets)}
    suggested = _best_thresholds(scores, targets).tolist()
    reports: list[CategoryReport] = []
    for index in range(categories):
        thresholds, precision, recall = curves.get(index, nothing)
        reports.append(
            CategoryReport(
                support=int(support[index]),
                recall=_ratio(right[index], support[index]),
                precision=_ratio(right[index], predicted[index]),
                f1=_ratio(2 * right[index], support[index] + predicted[index]),
                average_precision=float(precision.mean()) if len(precision) else 0.0,
                suggested_threshold=suggested[index],
                curve=thinned_curve(thresholds, precision, recall),
            )
        )
    return tuple(reports)


def _ratio(part: np.integer[Any], whole: np.integer[Any]) -> float:
    return float(part / whole) if whole else 0.0


def _require_sound(scores: Scores, targets: Targets) -> None:
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} do not match")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if len(targets) and not (targets.min() >= 0 and targets.max() < scores.shape[1]):
        raise ValueError(f"targets must be in 0..{scores.shape[1] - 1}")
