"""Ports that are measured: every operation on the blob store, the records and the queue, counted and timed."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from services.kit.blobs import BlobInfo, Blobs
from services.kit.errors import AlreadyExists, Conflict, NotFound, SightlineError, Unavailable
from services.kit.queue import Delivery, Queue
from services.kit.records import Change, Record, Records
from services.kit.telemetry import Metric, MetricKind, Telemetry

# ok; the caller's affair: missing, conflict (somebody else was faster), empty (no job came), cancelled;
# trouble: unavailable (no answer, or an outage), refused (by its rules: credentials, quotas), error (a defect).
RESULTS = ("ok", "missing", "conflict", "empty", "cancelled", "unavailable", "refused", "error")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STORE = ("put", "put_file", "get", "get_file", "stat", "list", "delete", "ping")
_RECORDS = ("get", "create", "update", "delete")
_QUEUE = ("publish", "depth")
_TIMED = (*(f"records_{name}" for name in _RECORDS), *(f"queue_{name}" for name in _QUEUE))

STORE_OPERATIONS = Metric(
    "sightline_store_operations_total",
    MetricKind.COUNTER,
    "Operations on the blob store that ended, by how they did.",
    ("operation", "result"),
    values=(_STORE, RESULTS),
)
STORE_SECONDS = Metric(
    "sightline_store_operation_seconds",
    MetricKind.HISTOGRAM,
    "Time that an operation on the blob store took, however it ended.",
    ("operation",),
    SECONDS,
    (_STORE,),
)
NATS_OPERATIONS = Metric(
    "sightline_nats_operations_total",
    MetricKind.COUNTER,
    "Operations on the records and the queue that ended, by how they did.",
    ("operation", "result"),
    values=((*_TIMED, "records_watch", "queue_fetch"), RESULTS),
)
NATS_SECONDS = Metric(
    "sightline_nats_operation_seconds",
    MetricKind.HISTOGRAM,
    "Time that an operation on the records or the queue took; watches and waits for jobs are counted, not timed.",
    ("operation",),
    SECONDS,
    (_TIMED,),
)
NATS_CONNECTED = Metric(
    "sightline_nats_connected", MetricKind.GAUGE, "Whether the connection to nats-server stands: 1 or 0."
)
STORE = (STORE_OPERATIONS, STORE_SECONDS)
NATS = (NATS_OPERATIONS, NATS_SECONDS, NATS_CONNECTED)


def result_of(error: BaseException) -> str:
    """How an operation that raised has ended, as the metrics name it."""
    match error:
        case NotFound():
            return "missing"
        case Conflict() | AlreadyExists():
            return "conflict"
        case Unavailable():
            return "unavailable"
        case SightlineError():
            return "refused"
        case asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
        case _:
            return "error"


@dataclass(frozen=True, slots=True)
class Meter:
    """Counts and times operations of one system."""

    telemetry: Telemetry
    operations: Metric
    seconds: Metric

    @contextmanager
    def operation(self, name: str) -> Generator[None]:
        """Measures the block."""
        started, result = time.perf_counter(), "ok"
        try:
            yield
        except BaseException as error:
            result = result_of(error)
            raise
        finally:
            self.telemetry.observe(self.seconds, time.perf_counter() - started, operation=name)
            self.count(name, result)

    def count(self, name: str, result: str) -> None:
        """Counts an operation without a time."""
        self.telemetry.add(self.operations, 1, operation=name, result=result)


class MeasuredBlobs:
    """The Blobs law as its inner store keeps it. A list is timed without what its reader does in between."""

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
        items, seconds, result = self.inner.list(prefix), 0.0, "ok"
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


class MeasuredRecords:
    """The Records law as its inner records keep it."""

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
        result = "ok"
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


class MeasuredQueue:
    """The Queue law as its inner queue keeps it. How deliveries are settled, `consume` counts."""

    def __init__(self, inner: Queue, telemetry: Telemetry) -> None:
        self._inner = inner
        self._meter = Meter(telemetry, NATS_OPERATIONS, NATS_SECONDS)

    async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
        with self._meter.operation("queue_publish"):
            await self._inner.publish(kind, body, dedup_id)

    async def fetch(self, kind: str, wait: timedelta) -> Delivery | None:
        try:
            delivery = await self._inner.fetch(kind, wait)
        except BaseException as error:
            self._meter.count("queue_fetch", result_of(error))
            raise
        self._meter.count("queue_fetch", "ok" if delivery else "empty")
        return delivery

    async def depth(self, kind: str) -> int:
        with self._meter.operation("queue_depth"):
            return await self._inner.depth(kind)
