"""The port to metrics: counters, gauges and histograms, declared once and updated anywhere; and to traces."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Protocol

from services.kit.tracing import MemoryTracer, Tracer


class MetricKind(StrEnum):
    """What a metric's numbers mean."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's declaration. Names carry their unit, as Prometheus asks.

    Law: a label has few values, and no caller can invent one: `values` lists them, in the order of the labels. An empty
    tuple stands for values bounded elsewhere, such as the contract's methods or the kinds of jobs.
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
        """Every possible set of labels; none if a label's values are bounded elsewhere."""
        if len(self.values) == len(self.labels) and all(self.values):
            for chosen in product(*self.values):
                yield dict(zip(self.labels, chosen, strict=True))


class Telemetry(Protocol):
    """Where measurements go, and spans. Law: never blocks, and never raises for declared labels and values.

    Undeclared ones are a bug: the test double raises; the real one logs it, records nothing and returns.
    """

    @property
    def tracer(self) -> Tracer:
        """Where spans go."""
        ...

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Increments a counter, or changes a gauge by the amount."""
        ...

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Adds a value to a histogram."""
        ...


class MemoryTelemetry:
    """Keeps everything in memory, for tests."""

    def __init__(self) -> None:
        self.tracer = MemoryTracer()
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
        """The current value of a counter or gauge; 0 if it was never set."""
        return self.values.get(self._key(metric, labels), 0.0)
