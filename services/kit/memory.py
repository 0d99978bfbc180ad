"""In-memory doubles of the ports, for unit tests; they pass the same contract suites as the real adapters."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from services.kit import tracing
from services.kit.blobs import BlobInfo, check_key, check_range
from services.kit.clock import Clock, SystemClock
from services.kit.errors import BlobNotFound, Conflict, RecordExists, RecordNotFound
from services.kit.names import split
from services.kit.queue import DUPLICATE_WINDOW, Delivery, check_kind
from services.kit.records import Change, Deleted, Record, Synced, check_record_key


class MemoryBlobs:
    """A bucket in a dictionary."""

    def __init__(self, bucket: str = "sightline") -> None:
        self._bucket = bucket
        self._data: dict[str, bytes] = {}

    @property
    def bucket(self) -> str:
        return self._bucket

    def _find(self, key: str) -> bytes:
        try:
            return self._data[check_key(key)]
        except KeyError:
            raise BlobNotFound(name=key) from None

    async def put(self, key: str, data: bytes) -> None:
        self._data[check_key(key)] = bytes(data)

    async def put_file(self, key: str, path: Path) -> None:
        check_key(key)
        await self.put(key, path.read_bytes())

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_range(start, length)
        return self._find(key)[start : None if length is None else start + length]

    async def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self._find(key))

    async def stat(self, key: str) -> BlobInfo:
        return BlobInfo(key, len(self._find(key)))

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        found = [BlobInfo(key, len(data)) for key, data in sorted(self._data.items()) if key.startswith(prefix)]
        for blob in found:  # some may be deleted meanwhile
            yield blob

    async def delete(self, key: str) -> None:
        self._data.pop(check_key(key), None)

    async def ping(self) -> None:
        return


def belongs(key: str, collections: tuple[str, ...]) -> bool:
    """Whether a record's key names a resource of exactly these nested collections, in any project."""
    parts = split(key)[1].split("/")
    return len(parts) == 2 * len(collections) and tuple(parts[::2]) == collections


class MemoryRecords:
    """Records in a dictionary."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._revision = 0
        self._watchers: list[tuple[tuple[str, ...], asyncio.Queue[Change]]] = []

    def _write(self, key: str, value: bytes | None) -> int:
        self._revision += 1
        if value is None:
            del self._records[key]
            change: Change = Deleted(key, self._revision)
        else:
            change = self._records[key] = Record(key, value, self._revision)
        for collections, changes in self._watchers:
            if belongs(key, collections):
                changes.put_nowait(change)
        return self._revision

    async def get(self, key: str) -> Record:
        try:
            return self._records[check_record_key(key)]
        except KeyError:
            raise RecordNotFound(name=key) from None

    async def create(self, key: str, value: bytes) -> int:
        if check_record_key(key) in self._records:
            raise RecordExists(name=key)
        return self._write(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        self._check(key, revision)
        return self._write(key, value)

    async def delete(self, key: str, revision: int) -> int:
        self._check(key, revision)
        return self._write(key, None)

    def _check(self, key: str, revision: int) -> None:
        present = self._records.get(check_record_key(key))
        if present is None or present.revision != revision:
            raise Conflict(name=key)

    async def watch(self, *collections: str) -> AsyncIterator[Change]:
        entry: tuple[tuple[str, ...], asyncio.Queue[Change]] = (collections, asyncio.Queue())
        existing = [record for key, record in sorted(self._records.items()) if belongs(key, collections)]
        revision = self._revision
        self._watchers.append(entry)
        try:
            for record in existing:
                yield record
            yield Synced(revision)
            while True:
                yield await entry[1].get()
        finally:
            self._watchers.remove(entry)


class _Job:
    """A published job; it can be handed out from `due` on, by the queue's clock."""

    def __init__(self, body: bytes, due: float) -> None:
        self.body = body
        self.published = self.due = due
        self.trace = tracing.current()
        self.deliveries = 0


class _Delivery:
    """One delivery of a job."""

    def __init__(self, queue: "MemoryQueue", kind: str, job: _Job) -> None:
        self._queue = queue
        self._job = job
        self.kind = kind
        self.body = job.body
        self.deliveries = job.deliveries
        self.trace = job.trace

    @property
    def age(self) -> timedelta:
        return timedelta(seconds=self._queue.clock.monotonic() - self._job.published)

    async def ack(self) -> None:
        jobs = self._queue.jobs[self.kind]
        if self._job in jobs:
            jobs.remove(self._job)

    async def nak(self, delay: timedelta = timedelta(0)) -> None:
        self._job.due = self._queue.clock.monotonic() + delay.total_seconds()

    async def extend(self) -> None:
        self._job.due = self._queue.clock.monotonic() + self._queue.ack_wait.total_seconds()


class MemoryQueue:
    """Jobs in lists."""

    def __init__(self, clock: Clock | None = None, ack_wait: timedelta = timedelta(seconds=30)) -> None:
        self.clock: Clock = clock or SystemClock()
        self.ack_wait = ack_wait
        self.jobs: dict[str, list[_Job]] = defaultdict(list)
        self._published: dict[tuple[str, str], float] = {}
        self._waiting: Counter[str] = Counter()

    async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
        check_kind(kind)
        now = self.clock.monotonic()
        if dedup_id:
            published = self._published.get((kind, dedup_id))
            if published is not None and now < published + DUPLICATE_WINDOW.total_seconds():
                return
            self._published[kind, dedup_id] = now
        self.jobs[kind].append(_Job(body, now))

    async def fetch(self, kind: str, wait: timedelta) -> Delivery | None:
        check_kind(kind)
        end = self.clock.monotonic() + wait.total_seconds()
        self._waiting[kind] += 1
        try:
            await asyncio.sleep(0)  # let others run, as a real queue does
            while True:
                now = self.clock.monotonic()
                for job in self.jobs[kind]:
                    if job.due <= now:
                        job.deliveries += 1
                        job.due = now + self.ack_wait.total_seconds()
                        return _Delivery(self, kind, job)
                if now >= end:
                    return None
                await self.clock.sleep(0.01)
        finally:
            self._waiting[kind] -= 1

    async def depth(self, kind: str) -> int:
        return len(self.jobs[check_kind(kind)])

    async def waiting(self, kind: str) -> int:
        return self._waiting[check_kind(kind)]
