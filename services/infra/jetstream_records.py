"""Records in a JetStream key-value bucket: compare-and-set by the sequence of a key's last message."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    Header,
    RawStreamMsg,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from services.infra.jetstream import REQUEST_SECONDS, ask, ensure_stream
from services.kit.errors import Conflict, RecordExists, RecordNotFound, Unavailable
from services.kit.records import Change, Deleted, Record, Synced, check_record_key

T = TypeVar("T")
OPERATION = "KV-Operation"
WRONG_SEQUENCE = {10071, 10164}
MISSED_HEARTBEATS = 3
SWEEP = 2  # old tombstones removed per deletion: more than one, so that they become fewer


def to_subject(key: str) -> str:
    """`models/m.1` as `models.m=1`: ids may hold and end in dots, subjects' parts may not. Ids never hold a `=`."""
    return check_record_key(key).replace(".", "=").replace("/", ".")


def to_key(subject: str) -> str:
    """The key back."""
    return subject.replace(".", "/").replace("=", ".")


class JetStreamRecords:
    """The Records law over one bucket, whose stream the first call makes.

    Reads go to the stream's leader, never to a replica that may lag (`allow_direct` stays off), so a get sees every
    write that returned before. A deletion leaves a tombstone, which watches need for a moment only: each deletion
    removes up to two tombstones older than `tombstone_age`, its own earlier ones and those that its watches met,
    so they do not pile up.
    """

    def __init__(
        self,
        connection: Client,
        bucket: str = "sightline_records",
        *,
        replicas: int = 1,
        heartbeat: timedelta = timedelta(seconds=1),
        tombstone_age: timedelta = timedelta(hours=1),
    ) -> None:
        self._connection = connection
        self._js = connection.jetstream(timeout=REQUEST_SECONDS)
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._replicas = replicas
        self._heartbeat = heartbeat.total_seconds()
        self._tombstone_age = tombstone_age
        self._tombstones: deque[tuple[datetime, str, int]] = deque(maxlen=100_000)  # when, subject, revision

    async def ensure(self) -> None:
        """Makes the bucket if it is missing; the layout is that of NATS's own key-value tools."""
        config = StreamConfig(
            name=self._stream,
            description="Sightline's resources",
            subjects=[f"{self._prefix}>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_msgs_per_subject=1,
            num_replicas=self._replicas,
            duplicate_window=120,
            allow_rollup_hdrs=True,
            allow_direct=False,
            deny_delete=True,
        )
        await ensure_stream(self._js, config)

    async def get(self, key: str) -> Record:
        message = await self._last(to_subject(key))
        if message is None or message.seq is None or _is_tombstone(message.headers):
            raise RecordNotFound(name=key)
        return Record(key, message.data or b"", message.seq)

    async def create(self, key: str, value: bytes) -> int:
        subject = to_subject(key)
        expected = 0
        while True:
            try:
                return await self._write(key, value, expected)
            except Conflict:
                message = await self._last(subject)
            if message is not None and not _is_tombstone(message.headers):
                raise RecordExists(name=key)
            expected = message.seq or 0 if message is not None else 0

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._write(key, value, _living(key, revision))

    async def delete(self, key: str, revision: int) -> int:
        deleted = await self._write(key, b"", _living(key, revision), {OPERATION: "DEL"})
        self._tombstones.append((datetime.now(UTC), to_subject(key), deleted))
        await self._sweep()
        return deleted

    async def _write(self, key: str, value: bytes, expected: int, headers: dict[str, str] | None = None) -> int:
        """Appends the key's next message if its last one is the expected one; Conflict."""
        subject = self._prefix + to_subject(key)
        guard = {**(headers or {}), Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(expected)}
        try:
            written = await self._ask(lambda: self._js.publish(subject, value, headers=dict(guard)))
        except nats.js.errors.APIError as error:
            if error.err_code in WRONG_SEQUENCE:
                raise Conflict(name=key) from None
            raise Unavailable(what="the records", problem=str(error)) from error
        return written.seq

    async def _last(self, subject: str) -> RawStreamMsg | None:
        """The key's last message, a tombstone perhaps."""
        try:
            return await self._ask(lambda: self._js.get_msg(self._stream, subject=self._prefix + subject))
        except nats.js.errors.NotFoundError:
            return None
        except nats.js.errors.APIError as error:
            raise Unavailable(what="the records", problem=str(error)) from error

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        return await ask(self._connection, "the records", call, self.ensure)

    async def _sweep(self) -> None:
        """Removes a few old tombstones; one whose key was created again is gone already, and its record stays."""
        for _ in range(SWEEP):
            if not self._tombstones or self._tombstones[0][0] > datetime.now(UTC) - self._tombstone_age:
                return
            _, subject, revision = self._tombstones.popleft()
            try:
                await self._js.purge_stream(self._stream, seq=revision + 1, subject=self._prefix + subject)
            except (nats.errors.Error, OSError):
                return  # A leftover: the next watch that begins meets it again.

    async def watch(self, *collections: str) -> AsyncGenerator[Change, None]:
        pattern = ".".join(f"{collection}.*" for collection in collections)
        feed = _Feed(self._connection, self._stream, self._prefix + pattern, self._heartbeat)
        try:
            start = await self._start(feed)
            synced = feed.pending == 0
            if synced:
                yield Synced(start)
            while True:
                message = await feed.next()
                if message is not None:
                    change = self._change(message)
                    if isinstance(change, Record) or synced:
                        yield change
                if not synced and (message is None or message.metadata.num_pending == 0):
                    synced = True
                    yield Synced(start)
        finally:
            await feed.close()

    async def _start(self, feed: "_Feed") -> int:
        """Opens the feed; the revision up to which it tells all before it has told what existed."""
        try:
            info = await self._ask(lambda: self._js.stream_info(self._stream))
            await feed.open()
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(what="the records", problem=str(error) or type(error).__name__) from error
        return info.state.last_seq

    def _change(self, message: Msg) -> Record | Deleted:
        subject, revision = message.subject.removeprefix(self._prefix), message.metadata.sequence.stream
        if not _is_tombstone(message.headers):
            return Record(to_key(subject), message.data, revision)
        if message.metadata.timestamp < datetime.now(UTC) - self._tombstone_age:
            self._tombstones.appendleft((message.metadata.timestamp, subject, revision))
        return Deleted(to_key(subject), revision)


def _living(key: str, revision: int) -> int:
    """The revision itself; Conflict for 0, which JetStream takes for "there is no such key"."""
    if revision <= 0:
        raise Conflict(name=key)
    return revision


def _is_tombstone(headers: dict[str, str] | None) -> bool:
    """Whether the message says that its key is gone: deleted, purged, or expired by the server."""
    return bool(headers) and (OPERATION in headers or "Nats-Marker-Reason" in headers)


class _Feed:
    """Each message of an ephemeral push consumer exactly once and in order, or Unavailable.

    A message that went missing shows in the consumer's own sequence, a lost server or consumer in its heartbeats,
    and a lost connection in the count of reconnects.
    """

    def __init__(self, connection: Client, stream: str, subject: str, heartbeat: float) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._heartbeat = heartbeat
        self._messages: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._reconnects = connection.stats["reconnects"]
        self._seen = 0
        self.pending = 0  # messages that existed when the feed was opened

    async def open(self) -> None:
        """Begins with the last message of every subject."""
        inbox = self._connection.new_inbox()
        self._subscription = await self._connection.subscribe(inbox, cb=self._messages.put)
        config = ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            filter_subject=self._subject,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,  # the server waits for us; a long list must not overflow the subscription
            idle_heartbeat=self._heartbeat,
            inactive_threshold=10 * self._heartbeat,
            num_replicas=1,
            mem_storage=True,
        )
        info = await self._connection.jetstream(timeout=REQUEST_SECONDS).add_consumer(self._stream, config)
        self.pending = (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)

    async def close(self) -> None:
        """Ends the interest; the server forgets the consumer soon after."""
        if self._subscription is not None:
            with suppress(nats.errors.Error, OSError):
                await self._subscription.unsubscribe()

    async def next(self) -> Msg | None:
        """The next message, or None once the server has nothing more to tell for the moment."""
        while True:
            message = await self._receive()
            status = (message.headers or {}).get("Status")
            if status is None:
                self._check(message.metadata.sequence.consumer == self._seen + 1, "it skipped a change")
                self._seen += 1
                return message
            self._check(status == "100", f"its watch ended with status {status}")
            if await self._answer(message):
                return None

    async def _answer(self, message: Msg) -> bool:
        """Answers flow control; True for a heartbeat that says that everything has been told."""
        headers = message.headers or {}
        stalled = message.reply or headers.get("Nats-Consumer-Stalled")
        if stalled:
            await self._connection.publish(stalled)
        told = headers.get("Nats-Last-Consumer")
        self._check(told is None or int(told) == self._seen, "it skipped a change")
        return told is not None and not stalled

    async def _receive(self) -> Msg:
        for _ in range(MISSED_HEARTBEATS):
            self._check(self._connection.stats["reconnects"] == self._reconnects, "the connection was lost")
            try:
                async with asyncio.timeout(self._heartbeat):
                    return await self._messages.get()
            except TimeoutError:
                self._check(self._connection.is_connected, "the connection is lost")
        raise Unavailable(what="the records", problem="it stopped sending heartbeats")

    @staticmethod
    def _check(holds: bool, problem: str) -> None:
        if not holds:
            raise Unavailable(what="the records", problem=problem)
