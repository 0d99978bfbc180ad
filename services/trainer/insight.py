"""What a trial shows about its training images: the worst mistakes, and what more images would be worth. A blob."""

from dataclasses import dataclass
from enum import StrEnum

from services.trainer.performance import Interval

MAX_MISTAKES = 50
MAX_DOUBTS = 100
ADDED_IMAGES = 10  # for which the gains are


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image that was predicted wrongly by weights that were not trained on it."""

    image_id: int
    file_name: str
    true_category: str = ""  # this and the following three: of a classifier
    predicted_category: str = ""
    probability: float | None = None
    log_loss: float | None = None
    missed: int = 0  # this and the following: of a detector
    false: int = 0


class DoubtKind(StrEnum):
    """What is probably wrong with a region."""

    MISSING = "MISSING"
    MISPLACED = "MISPLACED"
    CATEGORY = "CATEGORY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """An object that a detector found with confidence, and that contradicts the regions of its image."""

    image_id: int
    file_name: str
    kind: DoubtKind
    category: str  # of the object
    box: tuple[float, float, float, float]  # the object's, in pixels: left, top, width, height
    confidence: float
    labelled: str = ""  # the region's category; empty if the region is missing
    region: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Top-1 accuracy after training on so many images per category."""

    images_per_category: float  # the mean
    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """a - b * n^-c for n images per category."""

    a: float
    b: float
    c: float


@dataclass(frozen=True, slots=True)
class Gain:
    """An expected change of a metric."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class CategoryGain:
    """What ADDED_IMAGES more images of a category are worth while the others stay."""

    category: str
    image_count: int
    recall: float
    gain: Gain  # of its recall
    net_gain: Gain  # less the images of other categories that are then taken for it, per image of the category


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """What more images are worth; everything else is empty where it is `unavailable`, with the reason."""

    unavailable: str = ""
    points: tuple[CurvePoint, ...] = ()  # by ascending number of images
    power_law: PowerLaw | None = None
    gain: Gain | None = None  # of top-1 accuracy with ADDED_IMAGES more of every category
    categories: tuple[CategoryGain, ...] = ()  # the largest gain first


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """The blob `insight.json` of a trial."""

    mistakes: tuple[Mistake, ...] = ()  # the worst first, at most MAX_MISTAKES
    learning_curve: LearningCurve | None = None  # only of heads on frozen features
    doubts: tuple[Doubt, ...] = ()  # of detectors, the surest first, at most MAX_DOUBTS


NO_INSIGHT = Insight()


def no_curve(reason: str) -> LearningCurve:
    """That there is no curve, and why."""
    return LearningCurve(unavailable=reason)
