"""What a training has shown: its trials, its worst mistakes, and what more images would be worth."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from sightline.client.results.convert import given, span
from sightline.client.results.kinds import DoubtKind, word
from sightline.client.results.performance import Interval
from sightline.plurals import counted
from sightline.v1 import insight_pb2


@dataclass(frozen=True, slots=True)
class LeaderboardEntry:
    """A trial, and why it is served or not."""

    trial: str  # `models/birds/trials/t001`
    rung: int
    recipe: str  # in words
    score: float | None  # in `score_metric`; None of a refit and without a result
    score_metric: str  # a field of Performance
    score_interval: Interval | None
    log_loss: float | None  # classifiers; lower is better
    cost: timedelta
    served: bool
    verdict: str  # in words

    @classmethod
    def of(cls, message: insight_pb2.LeaderboardEntry) -> Self:
        """The content of the message."""
        interval = given(message, "score_interval")
        return cls(
            trial=message.trial,
            rung=message.rung,
            recipe=message.recipe,
            score=given(message, "score"),
            score_metric=message.score_metric,
            score_interval=Interval.of(interval) if interval is not None else None,
            log_loss=given(message, "log_loss"),
            cost=span(message.cost),
            served=message.served,
            verdict=message.verdict,
        )


@dataclass(frozen=True, slots=True)
class Mistake:
    """A training image that was predicted wrongly by weights that were not trained on it."""

    image_id: int
    file_name: str
    true_category: str  # classifiers
    predicted_category: str
    probability: float | None  # classifiers: the confidence of the wrong prediction
    log_loss: float | None
    missed: int  # detectors: regions that were not found
    false: int  # detectors: objects found where there is no region of their category

    @property
    def boxes(self) -> str:
        """Of detectors, in words: `1 box not found, 2 found where there is none`."""
        missed = f"{counted(self.missed, 'box', 'boxes')} not found"
        if not self.false:
            return missed
        if not self.missed:
            return f"{counted(self.false, 'box', 'boxes')} found where there is none"
        return f"{missed}, {self.false} found where there is none"

    @classmethod
    def of(cls, message: insight_pb2.Mistake) -> Self:
        """The content of the message."""
        return cls(
            image_id=message.image_id,
            file_name=message.file_name,
            true_category=message.true_category,
            predicted_category=message.predicted_category,
            probability=given(message, "probability"),
            log_loss=given(message, "log_loss"),
            missed=message.missed_region_count,
            false=message.false_object_count,
        )


@dataclass(frozen=True, slots=True)
class Doubt:
    """An object that was found in an image that was not trained on, and that contradicts the image's regions."""

    image_id: int
    file_name: str
    kind: DoubtKind
    category: str  # of the object
    box: tuple[float, ...]  # of the object, in pixels: left, top, width, height
    confidence: float
    region_category: str  # of the region in question; empty if a region is missing
    region_box: tuple[float, ...]  # empty if a region is missing

    @classmethod
    def of(cls, message: insight_pb2.Doubt) -> Self:
        """The content of the message."""
        return cls(
            image_id=message.image_id,
            file_name=message.file_name,
            kind=word(DoubtKind, insight_pb2.Doubt.Kind, message.kind),
            category=message.category,
            box=tuple(message.box),
            confidence=message.confidence,
            region_category=message.region_category,
            region_box=tuple(message.region_box),
        )


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """The metric after training on so many images of each category."""

    images_per_category: float  # on average
    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Gain:
    """An expected change of a metric: 0.04 is 4 points."""

    value: float
    interval: Interval

    @classmethod
    def of(cls, message: insight_pb2.ExpectedGain) -> Self:
        """The content of the message."""
        return cls(message.value, Interval.of(message.interval))


@dataclass(frozen=True, slots=True)
class CategoryGain:
    """What more images of a category are worth while the others stay."""

    category: str
    image_count: int
    recall: float
    gain: Gain  # of its recall
    net_gain: Gain  # less the images of other categories that are then taken for it


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """What more training images are worth."""

    trial: str  # whose features were used
    metric: str  # of `points` and `gain`, a field of Performance
    points: tuple[LearningPoint, ...]  # ascending
    law: tuple[float, float, float]  # a, b and c of a - b * n^-c, for n images per category
    added_images: int  # for which the gains are
    gain: Gain  # with that many images more of every category
    categories: tuple[CategoryGain, ...]  # the largest gain first

    @classmethod
    def of(cls, message: insight_pb2.LearningCurve) -> Self:
        """The content of the message."""
        return cls(
            trial=message.trial,
            metric=message.metric,
            points=tuple(
                LearningPoint(one.images_per_category, one.value, Interval.of(one.interval)) for one in message.points
            ),
            law=(message.power_law.a, message.power_law.b, message.power_law.c),
            added_images=message.added_image_count,
            gain=Gain.of(message.gain),
            categories=tuple(
                CategoryGain(one.category, one.image_count, one.recall, Gain.of(one.gain), Gain.of(one.net_gain))
                for one in message.categories
            ),
        )
