"""Which of two models is better, by a paired test."""

from dataclasses import dataclass, field
from typing import Self

from sightline.client.results.convert import given
from sightline.client.results.performance import Interval
from sightline.plurals import counted
from sightline.v1 import evaluation_service_pb2 as service

CHANCE = 0.05  # a p-value from which a difference may be chance


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """Two evaluations of the same images, compared image by image."""

    first: str  # `models/birds/evaluations/held-out`
    second: str
    metric: str  # a field of Performance: accuracy_top1, or mean_average_precision_50 of detectors
    first_value: float  # on the images that both predicted
    second_value: float
    difference: float  # the second value less the first
    interval: Interval  # of the difference
    p_value: float  # how probable such a difference is by chance
    image_count: int  # that both predicted
    left_out_image_count: int  # that only one of them predicted
    left_out_categories: tuple[str, ...]  # detectors: that only one of them knows, at most 20
    first_only_right_count: int | None  # classifiers: images that only the first got right
    second_only_right_count: int | None
    both_right_count: int | None
    message: service.CompareEvaluationsResponse = field(repr=False, compare=False)

    @classmethod
    def of(cls, request: service.CompareEvaluationsRequest, message: service.CompareEvaluationsResponse) -> Self:
        """The content of the messages."""
        return cls(
            first=request.first_evaluation,
            second=request.second_evaluation,
            metric=message.metric,
            first_value=message.first_value,
            second_value=message.second_value,
            difference=message.difference,
            interval=Interval.of(message.interval),
            p_value=message.p_value,
            image_count=message.image_count,
            left_out_image_count=message.left_out_image_count,
            left_out_categories=tuple(message.left_out_categories),
            first_only_right_count=given(message, "first_only_right_count"),
            second_only_right_count=given(message, "second_only_right_count"),
            both_right_count=given(message, "both_right_count"),
            message=message,
        )

    @property
    def better(self) -> str:
        """The evaluation of the better model; empty if the difference may be chance."""
        if self.p_value >= CHANCE:
            return ""
        return self.first if self.difference < 0 else self.second

    @property
    def verdict(self) -> str:
        """A sentence: `owls is better by 3.1 points (0.4 to 5.9), p = 0.02`."""
        ahead, low, high = _model(self.second), self.interval.low, self.interval.high
        if self.difference < 0:
            ahead, low, high = _model(self.first), -high, -low
        points = f"{100 * abs(self.difference):.1f} points ({100 * low:.1f} to {100 * high:.1f})"
        chance = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.2g}"
        if self.better:
            return f"{ahead} is better by {points}, {chance}"
        images = "this image" if self.image_count == 1 else f"these {counted(self.image_count, 'image')}"
        lead = f"{ahead} is ahead by {points}" if self.difference else f"they differ by {points}"
        return f"not distinguishable on {images}: {lead}, {chance}"


def _model(evaluation: str) -> str:
    """The id of the model that an evaluation is of."""
    return evaluation.removeprefix("models/").partition("/")[0]
