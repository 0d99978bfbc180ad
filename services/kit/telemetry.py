"""The port to metrics: counters, gauges and histograms that are declared once and bumped anywhere."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class MetricKind(StrEnum):
    """What a metric's numbers mean."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's declaration; labels must be bounded. Names carry their unit, as Prometheus asks."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Telemetry(Protocol):
    """Where measurements go. Law: never blocks, and never raises where a metric's labels are exactly the declared ones.

    Other labels are a defect: the double raises, the real thing logs it, counts nothing, and lets its caller work on.
    """

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Raises a counter, or moves a gauge."""
        ...

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Puts a value into a histogram."""
        ...


class MemoryTelemetry:
    """Keeps what it is told, for tests."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        self.observed: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = defaultdict(list)

    @staticmethod
    def _key(metric: Metric, labels: Mapping[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
        if set(labels) != set(metric.labels):
            raise ValueError(f"{metric.name} takes the labels {metric.labels}, not {tuple(labels)}")
        return metric.name, tuple(sorted(labels.items()))

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        self.values[self._key(metric, labels)] += amount

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self.values[self._key(metric, labels)] = value

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        self.observed[self._key(metric, labels)].append(value)

    def value(self, metric: Metric, **labels: str) -> float:
        """The present value of a counter or gauge; 0 if it was never touched."""
        return self.values.get(self._key(metric, labels), 0.0)
