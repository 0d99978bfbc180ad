"""The law of Telemetry, over the double and over Prometheus."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics

from services.infra.observe import PrometheusTelemetry
from services.kit import tracing
from services.kit.telemetry import MemoryTelemetry, Metric, MetricKind, Telemetry

CALLS = Metric("test_calls_total", MetricKind.COUNTER, "Calls, by kind.", ("kind",))
DEPTH = Metric("test_depth", MetricKind.GAUGE, "How many wait.")
SECONDS = Metric("test_seconds", MetricKind.HISTOGRAM, "How long they took.", buckets=(0.1, 1.0))


@pytest.fixture(params=["memory", "prometheus"])
def telemetry(request: pytest.FixtureRequest) -> Telemetry:
    return MemoryTelemetry() if request.param == "memory" else PrometheusTelemetry("test")


def read(telemetry: Telemetry, metric: Metric, **labels: str) -> float:
    """The current value, as a scrape sees it."""
    if isinstance(telemetry, MemoryTelemetry):
        return telemetry.value(metric, **labels)
    assert isinstance(telemetry, PrometheusTelemetry)
    return telemetry.registry.get_sample_value(metric.name, labels) or 0.0


def test_counters_add_up_by_their_labels(telemetry: Telemetry):
    telemetry.add(CALLS, kind="a")
    telemetry.add(CALLS, 2.5, kind="a")
    telemetry.add(CALLS, kind="b")
    assert (read(telemetry, CALLS, kind="a"), read(telemetry, CALLS, kind="b")) == (3.5, 1)
    assert read(telemetry, CALLS, kind="never") == 0


def test_gauges_are_set_and_moved(telemetry: Telemetry):
    telemetry.set(DEPTH, 5)
    telemetry.add(DEPTH, -2)
    assert read(telemetry, DEPTH) == 3


def test_observations_fall_into_buckets(telemetry: Telemetry):
    for seconds in (0.05, 0.5, 5.0):
        telemetry.observe(SECONDS, seconds)
    if isinstance(telemetry, PrometheusTelemetry):
        text = generate_latest(telemetry.registry).decode()
        assert 'test_seconds_bucket{le="0.1"} 1.0' in text
        assert 'test_seconds_bucket{le="1.0"} 2.0' in text
        assert "test_seconds_count 3.0" in text
    else:
        assert isinstance(telemetry, MemoryTelemetry)
        assert telemetry.observed[SECONDS.name, ()] == [0.05, 0.5, 5.0]


@pytest.mark.parametrize("labels", [{}, {"sort": "a"}, {"kind": "a", "sort": "b"}])
def test_wrong_labels_count_nothing(telemetry: Telemetry, labels: dict[str, str]):
    if isinstance(telemetry, MemoryTelemetry):
        with pytest.raises(ValueError, match="takes the labels"):
            telemetry.add(CALLS, 1, **labels)
    else:
        telemetry.add(CALLS, 1, **labels)  # logged: a bug of ours must not fail a caller's work
    telemetry.add(CALLS, kind="b")
    assert read(telemetry, CALLS, kind="b") == 1


@pytest.mark.parametrize(("flags", "shown"), [("01", True), ("03", True), ("00", False)])
def test_an_observation_in_a_recorded_trace_is_an_exemplar(flags: str, shown: bool):
    telemetry = PrometheusTelemetry("test")
    with tracing.within(tracing.TraceContext(f"00-{'a' * 32}-{'b' * 16}-{flags}")):
        telemetry.observe(SECONDS, 0.5)
    assert (f'trace_id="{"a" * 32}"' in open_metrics(telemetry.registry).decode()) is shown
