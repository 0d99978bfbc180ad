"""The port to metrics: counters, gauges and histograms that are declared once and bumped anywhere."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Protocol


class MetricKind(StrEnum):
    """What a metric's numbers mean."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's declaration. Names carry their unit, as Prometheus asks.

    Law: a label has few values, none of which a caller can invent: `values` lists them in the labels' order. An
    empty tuple stands for what another table bounds, such as the contract's methods or the kinds of jobs.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()

    def check(self, labels: Mapping[str, str]) -> None:
        """ValueError unless the labels are the declared ones, with declared values."""
        if set(labels) != set(self.labels):
            raise ValueError(f"{self.name} takes the labels {self.labels}, not {tuple(labels)}")
        for label, allowed in zip(self.labels, self.values, strict=False):
            if allowed and labels[label] not in allowed:
                raise ValueError(f"{self.name}'s {label} is one of {allowed}, not {labels[label]!r}")

    def series(self) -> Iterator[dict[str, str]]:
        """Every set of labels that it may have; nothing where one of them is bounded elsewhere."""
        if len(self.values) == len(self.labels) and all(self.values):
            for chosen in product(*self.values):
                yield dict(zip(self.labels, chosen, strict=True))


class Telemetry(Protocol):
    """Where measurements go. Law: never blocks, and never raises where labels and values are the declared ones.

    Others are a defect: the double raises, the real thing logs it, counts nothing, and lets its caller work on.
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
        metric.check(labels)
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
