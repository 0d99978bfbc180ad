"""Traces as a collector gets them: of calls, and of jobs through a real nats-server; and no trace of them when off."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.gateway import apis
from services.gateway.asgi import Gateway
from services.gateway.settings import GatewaySettings
from services.infra.channel import open_channel
from services.infra.jetstream import connect
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.observe import PrometheusTelemetry, traced
from services.infra.otlp import OtlpTracer
from services.kit import tracing
from services.kit.clock import SystemClock
from services.kit.consume import Job, Released, consume
from services.kit.errors import DatasetNotFound
from services.kit.metered import MeteredQueue
from services.kit.telemetry import MemoryTelemetry
from services.kit.tracing import NoTracer, TraceContext, Tracer
from sightline.client.client import Client
from sightline.client.client_aio import AsyncClient
from sightline.client.transport.addresses import Addresses
from sightline.v1 import dataset_pb2
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.dataset_service_pb2 import GetDatasetRequest
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tests.support.collector import Collecting, collecting
from tests.support.gateway import Seen, Stub, served, services_of
from tests.support.logs import events
from tests.support.runtime import bare_channel, serving
from tests.support.servers import NatsServer, free_port
from tests.unit.predictor.serving import IMAGE
from tests.unit.predictor.serving import serving as predicting

GET = "sightline.v1.DatasetService/GetDataset"
CALLER = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=opaque")
REQUEST = GetDatasetRequest(name="datasets/a")
OFF = """
import sys
import services.dataset.__main__, services.trainer.__main__, services.gateway.__main__, sightline.client.client
from services.infra import observe
with observe.traced("test", {"OTEL_SERVICE_NAME": "dataset"}):
    print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collecting]:
    with collecting() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def tracer(collected: Collecting) -> Iterator[Tracer]:
    with traced("test", os.environ) as made:
        yield made


async def test_a_call_continues_its_callers_trace_and_passes_it_on(collected: Collecting, tracer: Tracer):
    passed: list[TraceContext] = []

    async def act(_request: Any, context: Any) -> None:
        passed.append(tracing.received(context.invocation_metadata()))
        if len(passed) == 1:
            async with open_channel(running.address) as channel:  # as one service calls another
                await DatasetServiceStub(channel).GetDataset(REQUEST)

    async with serving(act, tracer=tracer) as running, bare_channel(running.address) as channel:
        await DatasetServiceStub(channel).GetDataset(REQUEST, metadata=CALLER.headers)
    inner, outer = await asyncio.to_thread(collected.collector.wait_for, GET, CALLER.trace_id, 2)
    assert (outer.parent_id, inner.parent_id) == (CALLER.span_id, outer.span_id)
    assert passed == [CALLER, TraceContext(f"00-{CALLER.trace_id}-{outer.span_id}-01", CALLER.tracestate)]
    assert outer.attributes["rpc.method"] == GET


@pytest.mark.parametrize("header", ["", "00-0-0-01", "x" * 5000, f"00-{'0' * 32}-{'0' * 16}-01"])
async def test_a_call_with_no_or_an_invalid_header_begins_a_trace(collected: Collecting, tracer: Tracer, header: str):
    metadata = ((tracing.TRACEPARENT, header),) if header else ()
    async with serving(tracer=tracer) as running, bare_channel(running.address) as channel:
        await DatasetServiceStub(channel).GetDataset(REQUEST, metadata=metadata)
    (span,) = await asyncio.to_thread(collected.collector.wait_for, GET)
    assert not span.parent_id


@pytest.mark.parametrize(
    ("error", "code", "failed"),
    [(DatasetNotFound(name="datasets/a"), "NOT_FOUND", False), (KeyError(), "INTERNAL", True)],
)
async def test_a_span_has_failed_if_that_was_the_servers_fault(
    collected: Collecting, tracer: Tracer, error: Exception, code: str, failed: bool
):
    async def act(_request: Any, _context: Any) -> None:
        raise error

    async with serving(act, tracer=tracer) as running, bare_channel(running.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await DatasetServiceStub(channel).GetDataset(REQUEST)
    (span,) = await asyncio.to_thread(collected.collector.wait_for, GET)
    assert (span.attributes["rpc.response.status_code"], span.failed) == (code, failed)


async def test_the_client_passes_on_its_callers_span_and_sends_nothing_without_one():
    seen: list[TraceContext] = []

    async def act(_request: Any, context: Any) -> None:
        seen.append(tracing.received(context.invocation_metadata()))

    async with serving(act) as running:
        addresses = Addresses(dataset=running.address)
        with Client(addresses) as client:
            await asyncio.to_thread(client.datasets.get, "a")
            with TracerProvider().get_tracer("caller").start_as_current_span("work") as span:
                await asyncio.to_thread(client.datasets.get, "a")
                async with AsyncClient(addresses) as other:
                    await other.datasets.get("a")
    ours = trace.format_trace_id(span.get_span_context().trace_id)
    assert [context.trace_id for context in seen] == ["", ours, ours]


async def test_a_retried_job_is_a_span_of_the_same_trace_linked_to_its_publication(
    collected: Collecting, tracer: Tracer, nats_server: NatsServer
):
    telemetry, name, stop = PrometheusTelemetry("test", tracer), f"T{uuid.uuid4().hex[:8]}", asyncio.Event()
    connection = await connect(nats_server.url, "test")
    queue = MeteredQueue(JetStreamQueue(connection, timedelta(seconds=30), stream=name, subjects=name), telemetry)
    attempts: list[bytes] = []

    async def handle(body: bytes) -> None:
        attempts.append(body)
        if len(attempts) == 1:
            raise Released
        stop.set()

    with telemetry.tracer.span("call") as call:
        call.set("sightline.resource", "datasets/a")
        await queue.publish("work", b"{}")
    async with asyncio.timeout(60):
        await consume(queue, Job("work", handle, handle), clock=SystemClock(), telemetry=telemetry, stop=stop)
    await connection.jetstream().delete_stream(name)
    await connection.close()
    first, second = await asyncio.to_thread(collected.collector.wait_for, "process jobs.work", count=2)
    (sent,) = collected.collector.named("send jobs.work")
    (waited,) = collected.collector.named("queue wait")
    assert (sent.kind, first.kind) == ("PRODUCER", "CONSUMER")
    assert {first.parent_id, second.parent_id, waited.parent_id} == {sent.span_id}
    assert (first.links, second.links) == ((), (sent.span_id,))
    assert [one.attributes["sightline.job.result"] for one in (first, second)] == ["released", "done"]
    assert first.attributes["messaging.system"] == "nats"
    assert first.attributes["messaging.destination.name"] == "jobs.work"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_an_unreachable_collector_fails_no_call_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, log_stream: StringIO, protocol: str
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with traced("test", os.environ) as tracer:
        async with serving(tracer=tracer) as running, bare_channel(running.address) as channel:
            async with asyncio.timeout(60):
                while not events(log_stream, "spans_lost"):
                    await DatasetServiceStub(channel).GetDataset(REQUEST)
                    await asyncio.sleep(0.05)
                for _ in range(20):
                    await DatasetServiceStub(channel).GetDataset(REQUEST)
    assert len(events(log_stream, "spans_lost")) == 1
    assert not events(log_stream, "library_message")


def test_a_process_ends_although_the_last_spans_cannot_be_sent(monkeypatch: pytest.MonkeyPatch):
    tracer, never = OtlpTracer("test", {}), threading.Event()
    monkeypatch.setattr(tracer._provider, "shutdown", never.wait)
    tracer.close()
    never.set()


@pytest.mark.parametrize("images", [1, 3])
async def test_a_single_prediction_shows_its_steps_and_a_stream_of_images_only_the_call(tmp_path: Path, images: int):
    async with predicting(tmp_path) as running:
        await running.predictor.load_model("models/m")
        running.telemetry.tracer.spans.clear()
        request = pb.AnalyzeImageRequest(model_name="models/m", image=IMAGE)
        if images == 1:
            await running.stub.AnalyzeImage(request)
        else:
            stream = [pb.AnalyzeImagesRequest(id=str(number), request=request) for number in range(images)]
            assert len([one async for one in running.stub.AnalyzeImages(iter(stream))]) == images
    call, *steps = running.telemetry.tracer.spans
    assert call.name.startswith("sightline.v1.PredictionService/AnalyzeImage")
    assert [one.name for one in steps] == (["decode", "queue wait", "forward"] if images == 1 else [])
    assert all(one.parent == call.context for one in steps)


async def test_the_gateway_continues_a_trace_into_its_calls():
    telemetry, found = MemoryTelemetry(), dataset_pb2.Dataset(name="datasets/a")
    settings, seen = GatewaySettings(), list[Seen]()
    gateway = Gateway(services_of(Stub(seen, {"GetDataset": lambda _: found})), settings, apis.served())
    async with served(gateway, settings, telemetry=telemetry) as client:
        await client.get("/computervision/datasets/a?api-version=2023-04-01-preview", headers=dict(CALLER.headers))
    (span,) = telemetry.tracer.spans
    assert (span.name, span.parent) == ("GET /computervision/datasets/{name}", CALLER)
    assert span.attributes["http.response.status_code"] == 200
    assert seen[0].metadata[tracing.TRACEPARENT] == span.context.traceparent


def test_without_a_collector_nothing_of_opentelemetry_is_loaded():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ended = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, env=environment, check=True)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("more", [{}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}])
def test_tracing_is_off_unless_a_collector_is_named(more: dict[str, str]):
    with traced("test", more) as tracer:
        assert isinstance(tracer, NoTracer)


@pytest.mark.parametrize(
    ("protocol", "missing", "problem"),
    [("http/json", "", "it can be grpc or http/protobuf"), ("grpc", "opentelemetry", "services\\[tracing\\]")],
)
def test_a_process_that_cannot_trace_as_asked_says_why_and_ends(
    monkeypatch: pytest.MonkeyPatch, protocol: str, missing: str, problem: str
):
    if missing:
        monkeypatch.delitem(sys.modules, "services.infra.otlp", raising=False)
        monkeypatch.setitem(sys.modules, missing, None)
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    with pytest.raises(SystemExit, match=problem), traced("test", asked):
        pass
