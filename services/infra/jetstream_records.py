"""Records in a JetStream key-value bucket: compare-and-set by the sequence of a key's last message."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import (
    DiscardPolicy,
    Header,
    RawStreamMsg,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from services.infra.jetstream import ANSWER_SECONDS, REQUEST_SECONDS, ask, ensure_stream
from services.infra.jetstream_feed import Feed
from services.kit import names
from services.kit.callers import DEFAULT_PROJECT
from services.kit.errors import Conflict, RecordExists, RecordNotFound, Unavailable
from services.kit.records import Change, Deleted, Record, Synced, check_record_key

T = TypeVar("T")
OPERATION = "KV-Operation"
WRONG_SEQUENCE = {10071, 10164}
LIST_SECONDS = 60.0  # for the subjects of a watch: a page for each thousands of records
READ_AT_ONCE = 64
SWEEP = 2  # old tombstones removed per deletion: more than one, so that their number falls


def to_subject(key: str) -> str:
    """`models/m.1` as `models.m=1`: ids may contain or end in dots, parts of subjects may not; ids have no `=`.

    `projects/acme/models/m` as `models.acme/m`, so that one pattern matches the models of all projects.
    """
    project, name = names.split(check_record_key(key))
    collection, _, rest = name.replace(".", "=").replace("/", ".").partition(".")
    return f"{collection}.{'' if project == DEFAULT_PROJECT else f'{project}/'}{rest}"


def to_key(subject: str) -> str:
    """The key back."""
    collection, _, rest = subject.partition(".")
    project, slash, rest = rest.rpartition("/")
    prefix = names.root(project) if slash else ""
    return f"{prefix}{collection}.{rest}".replace(".", "/").replace("=", ".")


class JetStreamRecords:
    """Records in one bucket, whose stream is created by the first call.

    Reads go to the stream's leader, never to a replica that may lag (`allow_direct` stays off), so a get sees every
    write that has returned. A deletion leaves a tombstone, which watches need only briefly: each deletion removes up to
    two tombstones older than `tombstone_age`, among those that this object wrote or its watches saw, so they do not
    pile up.
    """

    def __init__(
        self,
        connection: Client,
        bucket: str = "sightline_records",
        *,
        replicas: int = 1,
        heartbeat: timedelta = timedelta(seconds=1),
        tombstone_age: timedelta = timedelta(hours=1),
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._connection = connection
        self._js = connection.jetstream(timeout=REQUEST_SECONDS)
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._replicas = replicas
        self._answer_seconds = answer_seconds
        self._reading = asyncio.Lock()  # of what a watch finds when it begins
        self._heartbeat = heartbeat.total_seconds()
        self._tombstone_age = tombstone_age
        self._tombstones: deque[tuple[datetime, str, int]] = deque(maxlen=100_000)  # when, subject, revision

    async def ensure(self) -> None:
        """Creates the bucket if it is missing; the layout is that of NATS's own key-value tools."""
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

    async def all(self) -> dict[str, bytes]:
        """The value of every record, each as of a moment during the call."""
        subjects, _ = await self._ask(lambda: self._list(">"))
        found: dict[str, bytes] = {}
        for start in range(0, len(subjects), READ_AT_ONCE):
            keys = [to_key(subject) for subject in sorted(subjects)[start : start + READ_AT_ONCE]]
            read = await asyncio.gather(*(self.get(key) for key in keys), return_exceptions=True)
            for key, record in zip(keys, read, strict=True):
                if isinstance(record, Record):
                    found[key] = record.value
                elif not isinstance(record, RecordNotFound):
                    raise record
        return found

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
        """Appends a message to the key if its last one is the expected one; Conflict."""
        subject = self._prefix + to_subject(key)
        guard = {**(headers or {}), Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(expected)}
        try:
            written = await self._ask(lambda: self._js.publish(subject, value, headers=dict(guard)))
        except nats.js.errors.APIError as error:
            if error.err_code in WRONG_SEQUENCE:
                raise Conflict(name=key) from None
            raise Unavailable(what="The store of records", problem=str(error)) from error
        return written.seq

    async def _last(self, subject: str) -> RawStreamMsg | None:
        """The key's last message, possibly a tombstone."""
        try:
            return await self._ask(lambda: self._js.get_msg(self._stream, subject=self._prefix + subject))
        except nats.js.errors.NotFoundError:
            return None
        except nats.js.errors.APIError as error:
            raise Unavailable(what="The store of records", problem=str(error)) from error

    async def _ask(self, call: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        return await ask(self._connection, "The store of records", call, self.ensure, seconds or self._answer_seconds)

    async def _sweep(self) -> None:
        """Removes a few old tombstones; a key that was created again keeps its record."""
        for _ in range(SWEEP):
            if not self._tombstones or self._tombstones[0][0] > datetime.now(UTC) - self._tombstone_age:
                return
            _, subject, revision = self._tombstones.popleft()
            try:
                await self._js.purge_stream(self._stream, seq=revision + 1, subject=self._prefix + subject)
            except (nats.errors.Error, OSError):
                return  # the next watch will come across it again

    async def watch(self, *collections: str) -> AsyncGenerator[Change, None]:
        """See the port.

        The server's count of pending messages reaches 0 too early when records change meanwhile. So the subjects are
        listed first, and those that the feed skipped are read one by one. One watch after the other reads what is
        there: the server sends up to 32 MiB ahead for each, and ends a connection that is 64 MiB behind.
        """
        pattern = ".".join(f"{collection}.*" for collection in collections)
        feed = Feed(self._connection, self._stream, self._prefix + pattern, self._heartbeat)
        read: dict[str, int] = {}  # revisions that were read here before the feed reached them
        turn = ExitStack()
        await self._reading.acquire()
        turn.callback(self._reading.release)
        try:
            awaited, start = await self._begin(feed, pattern)
            synced = False
            while True:
                if not synced and not awaited:
                    synced = True
                    turn.close()
                    yield Synced(start)
                message = await feed.next()
                change = None if message is None else self._change(message)
                if awaited and (change is None or change.revision > start):
                    for subject in sorted(awaited):
                        with suppress(RecordNotFound):
                            record = await self.get(to_key(subject))
                            read[record.key] = record.revision
                            yield record
                    awaited, synced = set(), True
                    turn.close()
                    yield Synced(start)
                if change is None or change.revision <= read.get(change.key, 0):
                    continue
                awaited.discard(to_subject(change.key))
                if synced or isinstance(change, Record):
                    yield change
        finally:
            turn.close()
            await feed.close()

    async def _begin(self, feed: Feed, pattern: str) -> tuple[set[str], int]:
        """Opens the feed; returns the subjects that existed just before, and the stream's revision then."""
        try:
            subjects, revision = await self._ask(lambda: self._list(pattern), LIST_SECONDS)
            await feed.open()
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(what="The store of records", problem=str(error) or type(error).__name__) from error
        return subjects, revision

    async def _list(self, pattern: str) -> tuple[set[str], int]:
        """The subjects matching the pattern, including tombstones, and the stream's last revision before listing.

        nats-py reads only the first page of such a list.
        """
        found: set[str] = set()
        revision = 0
        while True:
            request = json.dumps({"subjects_filter": self._prefix + pattern, "offset": len(found)}).encode()
            reply = await self._connection.request(f"$JS.API.STREAM.INFO.{self._stream}", request, REQUEST_SECONDS)
            answer = json.loads(reply.data)
            if "error" in answer:
                raise nats.js.errors.APIError.from_error(answer["error"])
            page = answer["state"].get("subjects") or {}
            revision = revision or answer["state"]["last_seq"]
            found.update(subject.removeprefix(self._prefix) for subject in page)
            if not page or len(found) >= answer.get("total", 0):
                return found, revision

    def _change(self, message: Msg) -> Record | Deleted:
        subject, revision = message.subject.removeprefix(self._prefix), message.metadata.sequence.stream
        if not _is_tombstone(message.headers):
            return Record(to_key(subject), message.data, revision)
        if message.metadata.timestamp < datetime.now(UTC) - self._tombstone_age:
            self._tombstones.appendleft((message.metadata.timestamp, subject, revision))
        return Deleted(to_key(subject), revision)


def _living(key: str, revision: int) -> int:
    """The revision itself; Conflict for 0, which to JetStream means that there is no such key."""
    if revision <= 0:
        raise Conflict(name=key)
    return revision


def _is_tombstone(headers: dict[str, str] | None) -> bool:
    """Whether the message says that its key is gone: deleted, purged, or expired by the server."""
    return bool(headers) and (OPERATION in headers or "Nats-Marker-Reason" in headers)
