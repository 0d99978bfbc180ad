"""Metered ports: every operation on the blob store, the records and the queue is counted and timed."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from services.kit import tracing
from services.kit.blobs import BlobInfo, Blobs
from services.kit.errors import AlreadyExists, Conflict, NotFound, SightlineError, Unavailable
from services.kit.queue import Delivery, Queue, span_of
from services.kit.records import Change, Record, Records
from services.kit.telemetry import Metric, MetricKind, Telemetry
from services.kit.tracing import NO_SPAN, Span, SpanKind


class Result(StrEnum):
    """How an operation ended. The last three are trouble; the others are for the caller to handle."""

    OK = "ok"
    MISSING = "missing"
    CONFLICT = "conflict"  # another writer was faster
    EMPTY = "empty"  # no job arrived
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"  # no response, or an outage
    REFUSED = "refused"  # against its rules: credentials, quotas
    ERROR = "error"  # a bug


RESULTS = tuple(Result)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STORE = ("put", "put_file", "get", "get_file", "stat", "list", "delete", "ping")
_RECORDS = ("get", "create", "update", "delete")
_QUEUE = ("publish", "depth", "waiting")
_TIMED = (*(f"records_{name}" for name in _RECORDS), *(f"queue_{name}" for name in _QUEUE))

STORE_OPERATIONS = Metric(
    "sightline_store_operations_total",
    MetricKind.COUNTER,
    "Operations on the blob store, by how they ended.",
    ("operation", "result"),
    values=(_STORE, RESULTS),
)
STORE_SECONDS = Metric(
    "sightline_store_operation_seconds",
    MetricKind.HISTOGRAM,
    "Duration of operations on the blob store, however they ended.",
    ("operation",),
    SECONDS,
    (_STORE,),
)
NATS_OPERATIONS = Metric(
    "sightline_nats_operations_total",
    MetricKind.COUNTER,
    "Operations on the records and the queue, by how they ended.",
    ("operation", "result"),
    values=((*_TIMED, "records_watch", "queue_fetch"), RESULTS),
)
NATS_SECONDS = Metric(
    "sightline_nats_operation_seconds",
    MetricKind.HISTOGRAM,
    "Duration of operations on the records and the queue; watches and waits for jobs are counted, not timed.",
    ("operation",),
    SECONDS,
    (_TIMED,),
)
NATS_CONNECTED = Metric(
    "sightline_nats_connected", MetricKind.GAUGE, "Whether the process is connected to nats-server: 1 or 0."
)
STORE = (STORE_OPERATIONS, STORE_SECONDS)
NATS = (NATS_OPERATIONS, NATS_SECONDS, NATS_CONNECTED)


def result_of(error: BaseException) -> Result:
    """How an operation that raised ended."""
    match error:
        case NotFound():
            return Result.MISSING
        case Conflict() | AlreadyExists():
            return Result.CONFLICT
        case Unavailable():
            return Result.UNAVAILABLE
        case SightlineError():
            return Result.REFUSED
        case asyncio.CancelledError() | GeneratorExit():
            return Result.CANCELLED
        case _:
            return Result.ERROR


@dataclass(frozen=True, slots=True)
class Meter:
    """Counts and times operations of one system."""

    telemetry: Telemetry
    operations: Metric
    seconds: Metric

    @contextmanager
    def operation(self, name: str) -> Generator[None]:
        """Measures the block."""
        started, result = time.perf_counter(), Result.OK
        try:
            yield
        except BaseException as error:
            result = result_of(error)
            raise
        finally:
            self.telemetry.observe(self.seconds, time.perf_counter() - started, operation=name)
            self.count(name, result)

    def count(self, name: str, result: Result) -> None:
        """Counts an operation without timing it."""
        self.telemetry.add(self.operations, 1, operation=name, result=result)


class MeteredBlobs:
    """Blobs, metered. The time of a list excludes what its reader does in between."""

    def __init__(self, inner: Blobs, telemetry: Telemetry) -> None:
        self.inner = inner
        self._meter = Meter(telemetry, STORE_OPERATIONS, STORE_SECONDS)

    @property
    def bucket(self) -> str:
        return self.inner.bucket

    async def put(self, key: str, data: bytes) -> None:
        with self._meter.operation("put"):
            await self.inner.put(key, data)

    async def put_file(self, key: str, path: Path) -> None:
        with self._meter.operation("put_file"):
            await self.inner.put_file(key, path)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._meter.operation("get"):
            return await self.inner.get(key, start, length)

    async def get_file(self, key: str, path: Path) -> None:
        with self._meter.operation("get_file"):
            await self.inner.get_file(key, path)

    async def stat(self, key: str) -> BlobInfo:
        with self._meter.operation("stat"):
            return await self.inner.stat(key)

    async def list(self, prefix: str) -> AsyncGenerator[BlobInfo]:
        items, seconds, result = self.inner.list(prefix), 0.0, Result.OK
        try:
            while True:
                started = time.perf_counter()
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                finally:
                    seconds += time.perf_counter() - started
                yield item
        except BaseException as error:
            result = result_of(error)
            raise
        finally:
            self._meter.telemetry.observe(STORE_SECONDS, seconds, operation="list")
            self._meter.count("list", result)

    async def delete(self, key: str) -> None:
        with self._meter.operation("delete"):
            await self.inner.delete(key)

    async def ping(self) -> None:
        with self._meter.operation("ping"):
            await self.inner.ping()


class MeteredRecords:
    """Records, metered."""

    def __init__(self, inner: Records, telemetry: Telemetry) -> None:
        self._inner = inner
        self._meter = Meter(telemetry, NATS_OPERATIONS, NATS_SECONDS)

    async def get(self, key: str) -> Record:
        with self._meter.operation("records_get"):
            return await self._inner.get(key)

    async def create(self, key: str, value: bytes) -> int:
        with self._meter.operation("records_create"):
            return await self._inner.create(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        with self._meter.operation("records_update"):
            return await self._inner.update(key, value, revision)

    async def delete(self, key: str, revision: int) -> int:
        with self._meter.operation("records_delete"):
            return await self._inner.delete(key, revision)

    async def watch(self, *collections: str) -> AsyncGenerator[Change]:
        result = Result.OK
        try:
            changes = self._inner.watch(*collections)
            if not isinstance(changes, AsyncGenerator):
                raise TypeError("a watch is a generator, which its reader closes")
            async with aclosing(changes):
                async for change in changes:
                    yield change
        except BaseException as error:
            result = result_of(error)
            raise
        finally:
            self._meter.count("records_watch", result)


class MeteredQueue:
    """A queue, metered. `consume` counts how deliveries are settled."""

    def __init__(self, inner: Queue, telemetry: Telemetry) -> None:
        self._inner = inner
        self._meter = Meter(telemetry, NATS_OPERATIONS, NATS_SECONDS)

    @property
    def ack_wait(self) -> timedelta:
        return self._inner.ack_wait

    async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
        with self._span(kind), self._meter.operation("queue_publish"):
            await self._inner.publish(kind, body, dedup_id)

    def _span(self, kind: str) -> AbstractContextManager[Span]:
        """None without a current one: jobs that belong to no call need no trace of their own."""
        if not tracing.current():
            return NO_SPAN
        name, attributes = span_of("send", kind)
        return self._meter.telemetry.tracer.span(name, attributes, kind=SpanKind.PRODUCER)

    async def fetch(self, kind: str, wait: timedelta) -> Delivery | None:
        try:
            delivery = await self._inner.fetch(kind, wait)
        except BaseException as error:
            self._meter.count("queue_fetch", result_of(error))
            raise
        self._meter.count("queue_fetch", Result.OK if delivery else Result.EMPTY)
        return delivery

    async def depth(self, kind: str) -> int:
        with self._meter.operation("queue_depth"):
            return await self._inner.depth(kind)

    async def waiting(self, kind: str) -> int:
        with self._meter.operation("queue_waiting"):
            return await self._inner.waiting(kind)
