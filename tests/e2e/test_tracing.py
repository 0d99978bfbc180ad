"""One trace through a real suite: from a caller's span over services and NATS to a worker's child, and a prediction."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from sightline.client.client import Client
from sightline.demo.digits import DigitSet
from sightline.local.stack import Stack
from tests.e2e.conftest import RunningStack
from tests.support.collector import Collected, Collecting, Collector, collecting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Sets = tuple[DigitSet, DigitSet]
KEY = "a-collectors-key-that-no-span-holds"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def collected() -> Iterator[Collecting]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced_suite(tmp_path_factory: pytest.TempPathFactory, collected: Collecting) -> Iterator[Stack]:
    environment = collected.environment | {"OTEL_EXPORTER_OTLP_HEADERS": f"api-key={KEY}"}
    with RunningStack(tmp_path_factory.mktemp("traced"), environment=environment, metrics_port=0) as running:
        yield running.stack


@pytest.fixture(scope="module")
def story(traced_suite: Stack, images: Sets) -> str:
    """The id of the trace of a caller that registers, trains and predicts within one span of its own."""
    tracer = TracerProvider().get_tracer("a caller")
    with tracer.start_as_current_span("work") as span, Client(traced_suite.addresses, progress=False) as client:
        client.datasets.register("traced", coco=images[0].coco, kind="classification")
        client.models.train("traced", dataset="traced", budget="20s").wait()
        client.predict("traced", min(images[1].truth))
        return trace.format_trace_id(span.get_span_context().trace_id)


def test_one_trace_leads_from_create_model_to_the_workers_trial_and_its_child(story: str, collected: Collecting):
    collector = collected.collector
    created = collector.wait_for("sightline.v1.ModelService/CreateModel", story)[0]
    assert (created.service, created.kind) == ("trainer-api", "SERVER")
    assert created.attributes["rpc.system.name"] == "grpc"
    assert created.attributes["rpc.response.status_code"] == "OK"
    first = "models/traced/trials/t000"
    trial = collector.wait_until(lambda one: one.attributes.get("sightline.resource") == first)
    assert (trial.service, trial.name, trial.trace_id) == ("trainer-worker", "trial", story)
    assert trial.attributes["sightline.attempt.result"] == "succeeded"
    assert above(collector, trial, 3) == ["process jobs.trainer", "send jobs.trainer", created.name]
    phases = [one for one in collector.spans if one.parent_id == trial.span_id and one.name.startswith("child ")]
    assert {"child preparing", "child bundle"} <= {one.name for one in phases}
    assert sum(one.seconds for one in phases) <= trial.seconds


def test_one_trace_leads_from_create_dataset_to_each_of_its_jobs(story: str, collected: Collecting):
    collector = collected.collector
    checked = collector.wait_for("process jobs.ingest-chunk", story)[0]
    assert (checked.service, checked.kind) == ("dataset-worker", "CONSUMER")
    assert above(collector, checked, 4) == [
        "send jobs.ingest-chunk",
        "process jobs.ingest-dataset",
        "send jobs.ingest-dataset",
        "sightline.v1.DatasetService/CreateDataset",
    ]
    assert {one.parent_id for one in collector.named("queue wait", story)} >= {checked.parent_id}


def test_a_first_prediction_shows_where_its_time_went(story: str, collected: Collecting):
    collector = collected.collector
    predicted = collector.wait_for("sightline.v1.PredictionService/AnalyzeImage", story)[0]
    for step in ("bundle load", "decode", "forward"):
        (span,) = collector.wait_for(step, story)
        assert (span.service, span.parent_id) == ("predictor", predicted.span_id)
        assert span.seconds <= predicted.seconds


def test_a_latency_bucket_and_the_log_name_the_trace(story: str, traced_suite: Stack, collected: Collecting):
    collected.collector.wait_for("sightline.v1.PredictionService/AnalyzeImage", story)
    address = f"http://127.0.0.1:{traced_suite.metrics_ports['predictor']}/metrics"
    with urllib.request.urlopen(urllib.request.Request(address, headers={"Accept": OPEN_METRICS})) as answer:
        lines = answer.read().decode().splitlines()
    buckets = [line for line in lines if line.startswith("grpc_server_handling_seconds_bucket") and "Analyze" in line]
    assert any(f'trace_id="{story}"' in line for line in buckets)
    log = (traced_suite.logs / "trainer-worker-1.log").read_text()
    events = {line["event"] for text in log.splitlines() if (line := json.loads(text)).get("trace_id") == story}
    assert {"attempt_began", "attempt_ended"} <= events


def test_spans_hold_neither_secrets_nor_images(story: str, collected: Collecting, images: Sets):
    collected.collector.wait_for("sightline.v1.PredictionService/AnalyzeImage", story)
    sent = b"".join(collected.collector.raw)
    assert KEY.encode() not in sent
    assert not any(path.name.encode() in sent for path in images[0].truth)
    assert max(len(str(value)) for span in collected.collector.spans for value in span.attributes.values()) < 200


def above(collector: Collector, span: Collected, levels: int) -> list[str]:
    """The names of so many spans above, each of which ends, and arrives, after those below."""
    names: list[str] = []
    for _ in range(levels):
        span = collector.wait_until(lambda one, wanted=span.parent_id: one.span_id == wanted)
        names.append(span.name)
    return names
