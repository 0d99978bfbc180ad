"""A detector's metrics, as the contract defines them, with the confidence intervals of means. No torch.

    report = detection_report(GroundTruth(...), DetectionTable(...), image_count, category_count)

To compare two detectors on the same images, resample by resample:

    old, new = (match(truths, found, images, categories, (0.50,))[0] for found in (found_by_old, found_by_new))
    gain = new.mean_average_precision() - old.mean_average_precision()
    error = np.diff(resampled((old, new)), axis=1).std()
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.kit import pulse
from services.vision.average_precision import Floats, Matched
from services.vision.detection_matching import IOU_THRESHOLDS, DetectionTable, GroundTruth, match
from services.vision.intervals import Interval, resampling_interval
from services.vision.precision_recall import CurvePoint, thinned_curve, threshold_below
from services.vision.reliability import ReliabilityBin, reliability

RESAMPLES = 200
LEAST_RESAMPLES = 20
RESAMPLED_DETECTIONS = 20_000_000  # in total; takes a little over a second


@dataclass(frozen=True, slots=True)
class DetectionCategory:
    """One category; undefined metrics are None.

    Average precisions are undefined without support, the suggested threshold if no detection is right, and precision
    without a threshold.
    """

    support: int  # regions to find, without crowds
    average_precision_30: float | None
    average_precision_50: float | None
    average_precision_75: float | None
    suggested_threshold: float | None  # of the best F1 at IoU .50
    precision: float | None  # these three: of detections at or above the suggested threshold, at IoU .50
    recall: float | None
    f1: float | None
    curve: tuple[CurvePoint, ...]  # at IoU .50, by ascending threshold


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """A detector's performance on a set of images; means are over categories with ground truth, None without any."""

    image_count: int
    mean_average_precision_30: float | None
    mean_average_precision_50: float | None
    mean_average_precision_75: float | None
    intervals: dict[str, Interval]  # of the three, by their names; empty without ground truth
    categories: tuple[DetectionCategory, ...]  # by index
    reliability: tuple[ReliabilityBin, ...]  # of all detections, at IoU .50


def detection_report(
    truths: GroundTruth, detected: DetectionTable, image_count: int, category_count: int
) -> DetectionReport:
    """All metrics. Raises ValueError for inconsistent input."""
    matched = match(truths, detected, image_count, category_count, IOU_THRESHOLDS)
    means = [_known(found.mean_average_precision()) for found in matched]
    names = [f"mean_average_precision_{round(100 * threshold)}" for threshold in IOU_THRESHOLDS]
    values = resampled(matched)
    return DetectionReport(
        image_count,
        *means,
        intervals={
            name: resampling_interval(mean, values[:, column], matched[column].truth_count)
            for column, (name, mean) in enumerate(zip(names, means, strict=True))
            if mean is not None
        },
        categories=_categories(matched),
        reliability=_reliability(matched[IOU_THRESHOLDS.index(0.50)]),
    )


def resampled(matched: Sequence[Matched], *, seed: int = 0) -> Floats:
    """[resamples, matched]: the mean average precision of each matching on the same resamples of the images.

    There are 200 resamples, or as few as 20 for many detections; those without ground truth are left out.
    """
    random = np.random.default_rng(seed)
    images = matched[0].image_count
    size = sum(len(found.images) for found in matched)
    rounds = min(RESAMPLES, max(LEAST_RESAMPLES, RESAMPLED_DETECTIONS // max(1, size)))
    values: list[list[float]] = []
    for _ in range(rounds if images else 0):
        pulse.beat()
        weights = np.bincount(random.integers(0, images, images), minlength=images)
        values.append([found.mean_average_precision(weights) for found in matched])
    table = np.array(values).reshape(-1, len(matched))
    return table[~np.isnan(table).any(axis=1)]


def _reliability(matched: Matched) -> tuple[ReliabilityBin, ...]:
    right = np.zeros(len(matched.scores), np.bool_)
    right[matched.hits] = True
    return reliability(matched.scores, right)


def _categories(matched: Sequence[Matched]) -> tuple[DetectionCategory, ...]:
    precisions = np.stack([found.average_precisions() for found in matched], axis=1)
    at_50 = matched[IOU_THRESHOLDS.index(0.50)]
    supports = at_50.asked.support(np.ones(at_50.image_count, np.int64)).tolist()
    return tuple(_category(at_50, index, *both) for index, both in enumerate(zip(supports, precisions, strict=True)))


def _category(matched: Matched, index: int, support: int, precisions: Floats) -> DetectionCategory:
    start, stop = matched.bounds[index : index + 2]
    rising = matched.scores[start:stop][::-1]
    hits = matched.hits[slice(*np.searchsorted(matched.hits, (start, stop)))]
    thresholds = matched.scores[hits][::-1]  # other thresholds only add wrong detections
    accepted = len(rising) - np.searchsorted(rising, thresholds)
    right = len(thresholds) - np.searchsorted(thresholds, thresholds)
    precision, recall, f1 = right / accepted, right / max(1, support), 2 * right / (accepted + support)
    best = int(np.argmax(f1)) if len(f1) else None
    return DetectionCategory(
        support,
        *(_known(float(value)) for value in precisions),
        suggested_threshold=None if best is None else threshold_below(float(thresholds[best]), rising),
        precision=None if best is None else float(precision[best]),
        recall=(0.0 if support else None) if best is None else float(recall[best]),
        f1=(0.0 if support else None) if best is None else float(f1[best]),
        curve=thinned_curve(thresholds, precision, recall),
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
