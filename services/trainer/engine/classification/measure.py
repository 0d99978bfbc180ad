"""Metrics of predictions, and the temperature that calibrates them."""

import numpy as np
import torch
from numpy.typing import NDArray

from services.kit import pulse
from services.trainer.engine.classification.logistic import log_losses
from services.trainer.engine.data import Floats, Indices
from services.trainer.performance import (
    CalibrationBin,
    ConfusionEntry,
    Curve,
    Interval,
    Performance,
    Source,
    TagPerformance,
)
from services.trainer.predictions import Predictions
from services.vision.classification_metrics import CategoryReport, classification_report
from services.vision.intervals import wilson_interval
from services.vision.reliability import ReliabilityBin

MIN_CALIBRATION_ROWS = 4
KEPT_PROBABILITIES = 1_000_000
TEMPERATURES = np.exp(np.linspace(np.log(0.05), np.log(200), 165))


def fit_temperature(logits: Floats, labels: Indices) -> float:
    """The divisor of the logits that gives the lowest log loss (Guo et al., 2017); 1 for very few rows.

    One more image counts as half mistaken for each row's strongest rival, so that rows without a mistake do not make
    the next mistake certain (after Platt, 1999).
    """
    count = len(labels)
    if count < MIN_CALIBRATION_ROWS:
        return 1.0
    others = logits.copy()
    others[np.arange(count), labels] = -np.inf
    rivals, doubt = others.argmax(axis=1).astype(np.int64), 0.5 / (count + 1)

    def loss(place: int) -> float:
        pulse.beat()
        cooled = logits / np.float32(TEMPERATURES[place])
        return float(((1 - doubt) * log_losses(cooled, labels) + doubt * log_losses(cooled, rivals)).mean())

    low, high = 0, len(TEMPERATURES) - 1
    while low < high:  # the loss falls to its minimum, then rises: it is convex in 1 / temperature
        middle = (low + high) // 2
        low, high = (low, middle) if loss(middle) <= loss(middle + 1) else (middle + 1, high)
    return float(TEMPERATURES[low])


def calibrated_across(logits: Floats, labels: Indices, fold: Indices) -> Floats:
    """Each fold's logits, divided by the temperature of the other folds, so that no row calibrates itself."""
    out = logits.copy()
    for number in np.unique(fold):
        own = fold == number
        out[own] /= np.float32(fit_temperature(logits[~own], labels[~own]))
    return out


def softmax(logits: Floats) -> Floats:
    """Probabilities: rows that sum to 1."""
    return torch.softmax(torch.from_numpy(logits).double(), dim=1).float().numpy()


def predictions(categories: tuple[str, ...], ids: Indices, labels: Indices, logits: Floats) -> Predictions:
    """What the predictions file holds; `logits` are calibrated."""
    predicted = logits.argmax(axis=1)
    probabilities = softmax(logits) if logits.size <= KEPT_PROBABILITIES else np.empty((0, 0), np.float32)
    return Predictions(
        categories=categories,
        image_ids=tuple(ids.tolist()),
        labels=tuple(labels.tolist()),
        predicted=tuple(predicted.tolist()),
        correct=tuple((predicted == labels).tolist()),
        log_losses=tuple(log_losses(logits, labels).tolist()),
        probabilities=tuple(tuple(row) for row in probabilities.tolist()),
    )


def measure(scores: Floats, labels: Indices, categories: tuple[str, ...], source: Source) -> Performance:
    """The performance of these probabilities, as records and cards hold it."""
    report = classification_report(scores, labels)
    return Performance(
        source=source,
        image_count=report.image_count,
        average_precision=report.average_precision,
        accuracy_top1=report.accuracy_top1,
        accuracy_top5=report.accuracy_top5,
        calibration_ece=report.calibration_ece,
        intervals={name: Interval(found.low, found.high) for name, found in report.intervals.items()},
        tag_performance={
            name: _tag(category, scores[:, index], labels == index)
            for index, (name, category) in enumerate(zip(categories, report.categories, strict=True))
        },
        categories=categories,
        confusion_matrix=tuple(ConfusionEntry(cell.actual, cell.predicted, cell.count) for cell in report.confusion),
        precision_recall_curves={
            name: _curve(category) for name, category in zip(categories, report.categories, strict=True)
        },
        calibration_bins=tuple(map(_calibration_bin, report.reliability)),
    )


def _calibration_bin(found: ReliabilityBin) -> CalibrationBin:
    limits = wilson_interval(found.right, found.count)
    return CalibrationBin(found.mean_confidence, found.accuracy, found.count, Interval(limits.low, limits.high))


def _tag(category: CategoryReport, scores: Floats, positive: NDArray[np.bool_]) -> TagPerformance:
    """Precision, recall and F1 at the suggested threshold, as the contract defines them."""
    if not category.support:
        return TagPerformance(support=0)
    accepted = scores >= category.suggested_threshold
    right = int((accepted & positive).sum())
    precision = right / int(accepted.sum()) if accepted.any() else None
    recall = right / category.support
    return TagPerformance(
        support=category.support,
        accuracy=category.recall,
        average_precision_50=category.average_precision,
        precision=precision,
        recall=recall,
        f1=2 * right / (int(accepted.sum()) + category.support),
        suggested_threshold=category.suggested_threshold,
    )


def _curve(category: CategoryReport) -> Curve:
    points = category.curve[::-1]  # by descending threshold
    return Curve(
        thresholds=tuple(point.threshold for point in points),
        precisions=tuple(point.precision for point in points),
        recalls=tuple(point.recall for point in points),
    )
