"""Detections as columns, and the metrics of columns."""

from collections.abc import Mapping, Sequence

import numpy as np

from services.trainer.engine.data import Indices
from services.trainer.engine.detection.data import Scenes
from services.trainer.engine.loop.task import Outputs
from services.trainer.performance import CalibrationBin, Curve, Interval, Performance, Source, TagPerformance
from services.trainer.predictions import DetectorPredictions, found, image_ids, truths
from services.vision.card import UNFITTED_THRESHOLD
from services.vision.detection_matching import DetectionTable, GroundTruth, match
from services.vision.detection_metrics import DetectionCategory, detection_report, resampled
from services.vision.image_detections import ImageDetections
from services.vision.intervals import resampling_interval


def columns(answers: Sequence[ImageDetections]) -> Outputs:
    """One row per detection, image by image; counts and labels are small enough to be exact in float32."""
    return {
        "counts": np.array([len(answer.scores) for answer in answers], np.float32),
        "boxes": np.concatenate([np.empty((0, 4), np.float32), *(answer.boxes for answer in answers)]),
        "scores": np.concatenate([np.empty(0, np.float32), *(answer.scores for answer in answers)]),
        "labels": np.concatenate([np.empty(0, np.float32), *(answer.labels for answer in answers)], dtype=np.float32),
    }


def detected(outputs: Outputs) -> DetectionTable:
    """Inverse of `columns`; images count from 0."""
    counts = outputs["counts"].astype(np.int64)
    images = np.repeat(np.arange(len(counts)), counts)
    return DetectionTable(images, outputs["labels"].astype(np.int64), outputs["boxes"], outputs["scores"])


def validation_loss(scenes: Scenes, rows: Indices, outputs: Outputs) -> float | None:
    """1 minus the mean mAP at IoU .30, .50 and .75, which responds earlier than mAP at .50 alone.

    None while nothing is found, or without ground truth.
    """
    matched = match(scenes.truths(rows), detected(outputs), len(rows), len(scenes.categories))
    values = [threshold.mean_average_precision() for threshold in matched]
    if np.isnan(values).any():
        return None
    mean = float(np.mean(values))
    return 1 - mean if mean > 0 else None


def selection_score(
    truth: GroundTruth, answers: DetectionTable, image_count: int, categories: int
) -> tuple[float, float, Interval | None]:
    """(mAP at IoU .50, its standard error of at least half a region, its interval); (0, 1, None) without truth."""
    (matched,) = match(truth, answers, image_count, categories, (0.50,))
    value = matched.mean_average_precision()
    if np.isnan(value):
        return 0.0, 1.0, None
    values = resampled((matched,))[:, 0]
    error = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    limits = resampling_interval(value, values, matched.truth_count)
    return value, max(error, 0.5 / matched.truth_count), Interval(limits.low, limits.high)


def measure(
    truth: GroundTruth, answers: DetectionTable, image_count: int, categories: tuple[str, ...], source: Source
) -> Performance:
    """The performance of these detections."""
    report = detection_report(truth, answers, image_count, len(categories))
    tags = dict(zip(categories, report.categories, strict=True))
    return Performance(
        source=source,
        image_count=image_count,
        mean_average_precision_30=report.mean_average_precision_30,
        mean_average_precision_50=report.mean_average_precision_50,
        mean_average_precision_75=report.mean_average_precision_75,
        intervals={name: Interval(limits.low, limits.high) for name, limits in report.intervals.items()},
        tag_performance={name: _tag(category) for name, category in tags.items()},
        categories=categories,
        precision_recall_curves={name: _curve(category) for name, category in tags.items()},
        calibration_bins=tuple(
            CalibrationBin(one.mean_confidence, one.accuracy, one.count) for one in report.reliability
        ),
    )


def predictions(
    categories: tuple[str, ...], ids: Indices, truth: GroundTruth, answers: DetectionTable
) -> DetectorPredictions:
    """The content of the predictions file; the images are those of `ids`, in order."""
    return DetectorPredictions(
        categories=categories,
        image_ids=image_ids(ids),
        truths=truths(truth.images, truth.categories, truth.boxes, truth.crowds),
        found=found(answers.images, answers.categories, answers.boxes, answers.scores),
    )


def thresholds(measured: Performance, categories: tuple[str, ...], before: Mapping[str, float]) -> tuple[float, ...]:
    """Each category's suggested threshold, or else that of `before`, the median of the others, or the usual one."""
    known = {**before, **measured.suggested_thresholds}
    others = [known[name] for name in categories if name in known]
    usual = float(np.median(others)) if others else UNFITTED_THRESHOLD
    return tuple(known.get(name, usual) for name in categories)


def _tag(category: DetectionCategory) -> TagPerformance:
    return TagPerformance(
        support=category.support,
        average_precision_50=category.average_precision_50,
        precision=category.precision,
        recall=category.recall,
        f1=category.f1,
        suggested_threshold=category.suggested_threshold,
    )


def _curve(category: DetectionCategory) -> Curve:
    points = category.curve[::-1]  # by falling threshold
    return Curve(
        thresholds=tuple(point.threshold for point in points),
        precisions=tuple(point.precision for point in points),
        recalls=tuple(point.recall for point in points),
    )
