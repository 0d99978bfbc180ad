"""Whether one of two models is better than the other: a paired test on the images that both predicted. No torch.

Classifiers: McNemar's test of top-1 accuracy (1947), which counts only images that exactly one of them got right, less
half an image, as four images of one kind and none of the other would otherwise be certain; and
Tango's interval (1998, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design"), the differences that the same test does not reject. Detectors: a paired bootstrap over images of
mAP at IoU 0.50, whose variance is taken around the difference that is tested, as McNemar's is: so a few images that all
agree give no certainty.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.trainer.performance import Interval
from services.trainer.planner.comparison import common_images, matched
from services.trainer.predictions import AnyOutcomes, DetectorPredictions, Outcomes
from services.vision.detection_metrics import resampled
from services.vision.intervals import CONFIDENCE_Z

MAX_LEFT_OUT = 20  # names of categories
HALF = 0.5  # of an image, by which every difference is less certain than it looks
_HALVINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Significance:
    """Two models on the same images. The interval has 0 inside exactly if the p-value is above 0.05."""

    metric: str  # a field of Performance
    first: float
    second: float
    interval: Interval  # of the difference
    p_value: float
    image_count: int
    left_out_images: int  # that only one of the models predicted
    left_out_categories: tuple[str, ...] = ()  # of detectors: that only one of them knows
    only_first: int | None = None  # of classifiers: images that the first alone got right
    only_second: int | None = None
    both: int | None = None

    @property
    def difference(self) -> float:
        """The second less the first."""
        return self.second - self.first


def significance(first: AnyOutcomes, second: AnyOutcomes) -> Significance | None:
    """The test of two models' predictions for the same dataset; None without a common image that can be counted."""
    match first, second:
        case Outcomes(), Outcomes():
            return _of_classifiers(first, second)
        case DetectorPredictions(), DetectorPredictions():
            return _of_detectors(first, second)
        case _:
            raise ValueError("a classifier's predictions cannot be compared with a detector's")


def _of_classifiers(first: Outcomes, second: Outcomes) -> Significance | None:
    ids, *places = np.intersect1d(first.image_ids, second.image_ids, assume_unique=True, return_indices=True)
    if not len(ids):
        return None
    rights = [np.array(each.correct)[place] for each, place in zip((first, second), places, strict=True)]
    count, both = len(ids), int((rights[0] & rights[1]).sum())
    only_first, only_second = (int(right.sum()) - both for right in rights)
    return Significance(
        metric="accuracy_top1",
        first=(both + only_first) / count,
        second=(both + only_second) / count,
        interval=paired_interval(only_first, only_second, count),
        p_value=paired_p_value(only_first, only_second, count),
        image_count=count,
        left_out_images=len(first.image_ids) + len(second.image_ids) - 2 * count,
        only_first=only_first,
        only_second=only_second,
        both=both,
    )


def _of_detectors(first: DetectorPredictions, second: DetectorPredictions) -> Significance | None:
    """The standard error is at least half a region; images without regions do not make the test any surer."""
    common = common_images(first, second)
    names = tuple(name for name in first.categories if name in set(second.categories))
    if not len(common) or not names:
        return None
    (of_first,), (of_second,) = (matched(each, common, names, (0.50,)) for each in (first, second))
    values = of_first.mean_average_precision(), of_second.mean_average_precision()
    if any(map(math.isnan, values)):
        return None
    resamples = resampled((of_first, of_second))
    error = float(np.diff(resamples, axis=1).std(ddof=1)) if len(resamples) > 1 else 0.0
    error, difference = max(error, 0.5 / of_first.truth_count), values[1] - values[0]
    images = len(np.unique(of_first.asked.images))
    return Significance(
        metric="mean_average_precision_50",
        first=values[0],
        second=values[1],
        interval=mean_interval(difference, error, images),
        p_value=two_sided(difference / math.sqrt(error**2 + difference**2 / images)),
        image_count=len(common),
        left_out_images=sum(len(each.image_ids.array()) for each in (first, second)) - 2 * len(common),
        left_out_categories=tuple(sorted(set(first.categories) ^ set(second.categories)))[:MAX_LEFT_OUT],
    )


def paired_p_value(only_first: int, only_second: int, count: int) -> float:
    """McNemar's, of `count` images of which so many only the first, or only the second, got right."""
    return two_sided(_score(only_first, only_second, count)(0.0))


def paired_interval(only_first: int, only_second: int, count: int) -> Interval:
    """The interval at 95 % of how much larger the second's share of `count` images is (Tango, 1998)."""
    score, point = _score(only_first, only_second, count), (only_second - only_first) / count
    return Interval(
        _crossing(lambda difference: score(difference) < CONFIDENCE_Z, -1.0, point),
        _crossing(lambda difference: score(difference) < -CONFIDENCE_Z, point, 1.0),
    )


def mean_interval(difference: float, error: float, images: int) -> Interval:
    """The differences that are not rejected if the variance is taken around each: the error's, and the gap's share."""
    left = 1 - CONFIDENCE_Z**2 / images
    half = CONFIDENCE_Z * error / math.sqrt(left) if left > 0 else 2.0  # all of them
    return Interval(max(-1.0, difference - half), min(1.0, difference + half))


def two_sided(deviation: float) -> float:
    """How probable a deviation of so many standard errors, or a larger one, is by chance."""
    return math.erfc(abs(deviation) / math.sqrt(2))


def _score(only_first: int, only_second: int, count: int) -> Callable[[float], float]:
    """By how many standard errors the observed difference, less half an image, exceeds a given one."""

    def score(difference: float) -> float:
        excess = only_second - only_first - count * difference
        counted = math.copysign(max(0.0, abs(excess) - HALF), excess)
        if not counted:
            return 0.0
        # The share that only the first gets right, at its most likely if this were the true difference.
        b = (2 * count - only_second + only_first) * difference - only_first - only_second
        c = -only_first * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 8 * count * c)) - b) / (4 * count)
        variance = count * (2 * share + difference * (1 - difference))
        return counted / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)

    return score


def _crossing(beyond: Callable[[float], bool], low: float, high: float) -> float:
    """Where the condition, false below and true above, begins to hold."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return (low + high) / 2
