"""A model's metrics, as in the contract's ModelPerformance: in records, cards and the child's messages."""

from dataclasses import dataclass, field
from enum import StrEnum


class Source(StrEnum):
    """The images on which the metrics were measured."""

    TEST_DATASET = "TEST_DATASET"
    HOLD_OUT = "HOLD_OUT"
    CROSS_VALIDATION = "CROSS_VALIDATION"


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a metric."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class TagPerformance:
    """One category; None where a metric is undefined, such as recall without ground truth."""

    support: int
    accuracy: float | None = None  # recall at top 1
    average_precision_50: float | None = None  # of a classifier: average precision
    precision: float | None = None  # these three at `suggested_threshold`
    recall: float | None = None
    f1: float | None = None
    suggested_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class ConfusionEntry:
    """`count` images of category `row` were predicted as category `col`."""

    row: int
    col: int
    count: int


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Answers of similar confidence: a classifier's images, or a detector's detections, right at IoU 0.50."""

    mean_confidence: float
    accuracy: float
    count: int
    interval: Interval | None = None  # of the accuracy; None of detections, as those of one image depend on each other


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision and recall by descending threshold; three lists of equal length."""

    thresholds: tuple[float, ...]
    precisions: tuple[float, ...]
    recalls: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownCategory:
    """A category of the test dataset that the model does not have."""

    name: str
    image_count: int
    region_count: int = 0  # of a detection dataset
    similar: str = ""  # the category of the model that was probably meant


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of the test dataset was measured. Every image is either measured, unknown or unreadable."""

    image_count: int  # of the test dataset, as the three below
    measured_image_count: int
    unknown_image_count: int = 0  # annotated, but only with categories that the model does not have
    unreadable_image_count: int = 0
    region_count: int = 0  # of a detection dataset, all of them
    unknown_region_count: int = 0
    unknown_categories: tuple[UnknownCategory, ...] = ()  # most frequent first
    untested_categories: tuple[str, ...] = ()  # the model's, without ground truth in what was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that readers of the metrics should know."""

    code: str
    message: str
    remedy: str


METRICS = (  # of a whole model
    "average_precision",
    "accuracy_top1",
    "accuracy_top5",
    "calibration_ece",
    "mean_average_precision_30",
    "mean_average_precision_50",
    "mean_average_precision_75",
)


@dataclass(frozen=True, slots=True)
class Performance:
    """A model's metrics; None, never 0, where one does not apply."""

    source: Source
    image_count: int
    average_precision: float | None = None
    accuracy_top1: float | None = None
    accuracy_top5: float | None = None
    calibration_ece: float | None = None
    mean_average_precision_30: float | None = None
    mean_average_precision_50: float | None = None
    mean_average_precision_75: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict[str, Interval])
    tag_performance: dict[str, TagPerformance] = field(default_factory=dict[str, TagPerformance])
    categories: tuple[str, ...] = ()  # in the order of the confusion matrix's rows and columns
    confusion_matrix: tuple[ConfusionEntry, ...] = ()
    precision_recall_curves: dict[str, Curve] = field(default_factory=dict[str, Curve])
    calibration_bins: tuple[CalibrationBin, ...] = ()  # by rising confidence; empty of earlier versions
    coverage: Coverage | None = None  # of a test dataset

    def metrics(self) -> dict[str, float]:
        """The metrics that apply, by the names in METRICS."""
        values = {name: getattr(self, name) for name in METRICS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def suggested_thresholds(self) -> dict[str, float]:
        """By category name, for categories that have one."""
        found = {name: tag.suggested_threshold for name, tag in self.tag_performance.items()}
        return {name: value for name, value in found.items() if value is not None}
