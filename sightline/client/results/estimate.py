"""Estimates of trainings that have not begun."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from sightline.client.results.convert import span
from sightline.client.results.performance import Interval
from sightline.v1 import model_service_pb2 as service


@dataclass(frozen=True, slots=True)
class BudgetOutlook:
    """What to expect of one budget."""

    budget: timedelta
    expected_cost: timedelta  # what is charged of it, as far as can be foreseen
    value: float | None  # of the estimate's metric; None if nothing can be said about it
    interval: Interval | None  # around the value


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a training would need and achieve, measured on a worker's device."""

    minimum_budget: timedelta  # the smallest that is accepted and pays for the first trial
    suggested_budget: timedelta  # pays for the whole search
    device: str  # that was measured, such as `cpu, 2 threads`
    calibration_factor: float  # seconds of the reference device that are charged for one of this device
    metric: str  # of the outlook, a field of Performance; empty if it has no values
    outlook: tuple[BudgetOutlook, ...]  # by budget, ascending
    message: service.EstimateTrainingResponse = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: service.EstimateTrainingResponse) -> Self:
        """The content of the message."""
        return cls(
            minimum_budget=span(message.minimum_budget),
            suggested_budget=span(message.suggested_budget),
            device=message.device,
            calibration_factor=message.calibration_factor,
            metric=message.metric_name,
            outlook=tuple(_outlook(found) for found in message.outlook),
            message=message,
        )


def _outlook(message: service.BudgetOutlook) -> BudgetOutlook:
    budget, cost = span(message.budget), span(message.expected_cost)
    if not message.HasField("interval"):
        return BudgetOutlook(budget, cost, None, None)
    found = message.interval
    return BudgetOutlook(budget, cost, message.metric_value, Interval(found.low, found.high, found.level))
