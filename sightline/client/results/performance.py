"""The performance of a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from sightline.client.results.convert import given
from sightline.client.results.kinds import Source, word
from sightline.v1 import performance_pb2


@dataclass(frozen=True, slots=True)
class Interval:
    """The confidence interval of a metric."""

    low: float
    high: float
    level: float  # such as 0.95

    @classmethod
    def of(cls, message: performance_pb2.Interval) -> Self:
        """The content of the message."""
        return cls(message.low, message.high, message.level)


@dataclass(frozen=True, slots=True)
class CategoryPerformance:
    """The performance of a model on one category."""

    accuracy: float | None  # classifiers: the share of the category's images that are recognised
    average_precision_50: float | None  # detectors: at IoU 0.50
    precision: float | None  # at `suggested_threshold`
    recall: float | None
    f1: float | None
    suggested_threshold: float | None  # the one with the best F1 on these images
    support: int  # measured images (classifiers) or boxes (detectors) of the category


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many images of the category `true` were classified as `predicted`."""

    true: str
    predicted: str
    count: int


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Predictions of similar confidence: of images (classifiers), or detections that are right at IoU 0.50."""

    mean_confidence: float
    accuracy: float  # the share that is right; about `mean_confidence` if the model is calibrated
    count: int
    interval: Interval | None  # classifiers: of the accuracy

    @classmethod
    def of(cls, message: performance_pb2.CalibrationBin) -> Self:
        """The content of the message."""
        interval = Interval.of(message.interval) if message.HasField("interval") else None
        return cls(message.mean_confidence, message.accuracy, message.count, interval)


@dataclass(frozen=True, slots=True)
class UnknownCategory:
    """A category of the test dataset that the model does not know."""

    name: str
    image_count: int
    region_count: int  # detectors
    similar_category: str  # the model's category that was probably meant; empty if there is none


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a test dataset was measured, and why the rest was left out."""

    image_count: int  # in the test dataset
    measured_image_count: int
    unknown_image_count: int  # with a category that the model does not know
    unreadable_image_count: int
    region_count: int  # detectors
    unknown_region_count: int
    unknown_categories: tuple[UnknownCategory, ...]  # the most frequent first
    untested_categories: tuple[str, ...]  # the model's categories that do not occur


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """The performance of a model on images not used for its selection. A metric that does not apply is None."""

    accuracy_top1: float | None  # classifiers: the share of images whose category scores highest
    accuracy_top5: float | None
    average_precision: float | None  # classifiers: the mean over categories
    calibration_ece: float | None  # classifiers: expected calibration error; lower is better
    mean_average_precision_30: float | None  # detectors: COCO's, at IoU 0.30
    mean_average_precision_50: float | None
    mean_average_precision_75: float | None
    intervals: Mapping[str, Interval]  # by the name of a metric above
    categories: Mapping[str, CategoryPerformance]  # by name; all of them from `get`, otherwise at most 100
    confusion: tuple[Confusion, ...]  # classifiers, only from `get`: every pair that occurred
    calibration: tuple[CalibrationBin, ...]  # only from `get`: by rising confidence
    source: Source
    image_count: int  # measured images; 0 if nothing was measured
    coverage: Coverage | None  # of a test dataset
    message: performance_pb2.ModelPerformance = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: performance_pb2.ModelPerformance) -> Self:
        """The content of the message."""
        names = message.confusion_matrix.categories
        return cls(
            accuracy_top1=given(message, "accuracy_top1"),
            accuracy_top5=given(message, "accuracy_top5"),
            average_precision=given(message, "average_precision"),
            calibration_ece=given(message, "calibration_ece"),
            mean_average_precision_30=given(message, "mean_average_precision_30"),
            mean_average_precision_50=given(message, "mean_average_precision_50"),
            mean_average_precision_75=given(message, "mean_average_precision_75"),
            intervals={name: Interval.of(interval) for name, interval in message.intervals.items()},
            categories={name: _category(tag) for name, tag in message.tag_performance.items()},
            confusion=tuple(Confusion(names[e.row], names[e.col], e.count) for e in message.confusion_matrix.entries),
            calibration=tuple(map(CalibrationBin.of, message.calibration_bins)),
            source=word(Source, performance_pb2.ModelPerformance.Source, message.source),
            image_count=message.image_count,
            coverage=_coverage(message.coverage) if message.HasField("coverage") else None,
            message=message,
        )


def _category(tag: performance_pb2.TagPerformance) -> CategoryPerformance:
    metrics = ("accuracy", "average_precision_50", "precision", "recall", "f1", "suggested_threshold")
    return CategoryPerformance(*(given(tag, metric) for metric in metrics), support=tag.support)


def _coverage(coverage: performance_pb2.Coverage) -> Coverage:
    unknown = coverage.unknown_categories
    return Coverage(
        image_count=coverage.image_count,
        measured_image_count=coverage.measured_image_count,
        unknown_image_count=coverage.unknown_image_count,
        unreadable_image_count=coverage.unreadable_image_count,
        region_count=coverage.region_count,
        unknown_region_count=coverage.unknown_region_count,
        unknown_categories=tuple(
            UnknownCategory(one.name, one.image_count, one.region_count, one.similar_category) for one in unknown
        ),
        untested_categories=tuple(coverage.untested_categories),
    )
