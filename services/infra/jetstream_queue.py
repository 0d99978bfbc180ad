"""Jobs in a JetStream work-queue stream: one subject and one durable pull consumer per kind."""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, Header, RetentionPolicy, StorageType, StreamConfig

from services.infra.jetstream import ANSWER_SECONDS, PAUSE_SECONDS, REQUEST_SECONDS, ask, ensure_stream, is_back
from services.infra.nats_access import explain, heeding_cancellation
from services.kit import tracing
from services.kit.errors import Unavailable
from services.kit.log import Log
from services.kit.queue import DUPLICATE_WINDOW, check_kind
from services.kit.tracing import TraceContext

STREAM = "SIGHTLINE_JOBS"
PULL_SECONDS = 5.0  # the longest wait of one request, so that a deleted stream is noticed
HEARTBEAT_SECONDS = 1.0  # from the server while a request waits
SILENCE_SECONDS = 2.5  # after which the consumer counts as missing
GRACE_SECONDS = 0.5  # the server ends a request, not us: a reply on its way is not lost
_GONE = {"503", "409"}

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class JetStreamDelivery:
    """A delivery. Settling never raises: what the server misses is delivered again when the lease expires."""

    kind: str
    message: Msg

    @property
    def body(self) -> bytes:
        return self.message.data

    @property
    def deliveries(self) -> int:
        return self.message.metadata.num_delivered

    @property
    def trace(self) -> TraceContext:
        return tracing.received((self.message.headers or {}).items())

    @property
    def age(self) -> timedelta:
        return max(datetime.now(UTC) - self.message.metadata.timestamp, timedelta(0))

    async def ack(self) -> None:
        try:
            await self.message.ack_sync(timeout=REQUEST_SECONDS)
        except (nats.errors.Error, OSError) as error:
            log.warning("queue.ack_lost", kind=self.kind, problem=str(error))

    async def nak(self, delay: timedelta = timedelta(0)) -> None:
        with suppress(nats.errors.Error, OSError):
            await self.message.nak(delay.total_seconds() or None)

    async def extend(self) -> None:
        with suppress(nats.errors.Error, OSError):
            await self.message.in_progress()


class JetStreamQueue:
    """A Queue over one stream; the stream and a kind's consumer are created by the first call that needs them.

    A kind's jobs have the subject `jobs.{kind}`, and its consumer is called `{kind}`: autoscalers read the number of
    jobs there (pending and unacknowledged). The server never gives up a job (`max_deliver` -1): the handler counts.
    """

    def __init__(
        self,
        connection: Client,
        ack_wait: timedelta,
        *,
        stream: str = STREAM,
        subjects: str = "jobs",
        replicas: int = 1,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._connection = connection
        self._js = connection.jetstream(timeout=REQUEST_SECONDS)
        self.ack_wait = ack_wait
        self._stream = stream
        self._subjects = subjects
        self._replicas = replicas
        self._answer_seconds = answer_seconds
        self._ready: set[str] = set()
        self._problem = ""  # that was logged, until the queue can be read

    async def ensure_stream(self) -> None:
        """Creates the stream if it is missing."""
        config = StreamConfig(
            name=self._stream,
            description="Sightline's jobs: hints that some work is due",
            subjects=[f"{self._subjects}.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            num_replicas=self._replicas,
            duplicate_window=DUPLICATE_WINDOW.total_seconds(),
        )
        await ensure_stream(self._js, config)

    async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
        subject = self._subject(kind)
        headers = dict(tracing.current().headers)
        if dedup_id:
            headers[Header.MSG_ID.value] = f"{kind}/{dedup_id}"
        try:
            await ask(
                self._connection,
                "the queue",
                lambda: self._js.publish(subject, body, headers=headers or None),
                self.ensure_stream,
                self._answer_seconds,
            )
        except nats.js.errors.Error as error:
            raise Unavailable(what="The queue", problem=str(error)) from error

    async def fetch(self, kind: str, wait: timedelta) -> JetStreamDelivery | None:
        subject = self._subject(kind)
        end = time.monotonic() + wait.total_seconds()
        while True:
            left = end - time.monotonic()
            message = None
            if await is_back(self._connection, left):
                try:
                    if kind not in self._ready:
                        await self._ensure_consumer(kind, subject)
                    message = await heeding_cancellation(partial(self._pull, kind, min(left, PULL_SECONDS)))
                    self._problem = ""
                except (nats.errors.Error, OSError, TimeoutError) as error:  # an outage counts as no job
                    self._tell_problem(kind, error)
            if message is not None:
                return JetStreamDelivery(kind, message)
            left = end - time.monotonic()
            if left <= 0:
                return None
            if kind not in self._ready:
                await asyncio.sleep(min(PAUSE_SECONDS, left))

    def _tell_problem(self, kind: str, error: Exception) -> None:
        """Logs once what keeps the consumer from being made."""
        problem = explain(error)
        if kind not in self._ready and problem != self._problem:
            self._problem = problem
            log.warning("queue.unavailable", kind=kind, problem=problem)

    async def depth(self, kind: str) -> int:
        info = await self._consumer_info(kind)
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def waiting(self, kind: str) -> int:
        return (await self._consumer_info(kind)).num_waiting or 0

    async def _consumer_info(self, kind: str) -> ConsumerInfo:
        subject = self._subject(kind)
        try:
            return await ask(
                self._connection,
                "the queue",
                lambda: self._js.consumer_info(self._stream, kind),
                lambda: self._ensure_consumer(kind, subject),
                self._answer_seconds,
            )
        except nats.js.errors.Error as error:
            raise Unavailable(what="The queue", problem=str(error)) from error

    def _subject(self, kind: str) -> str:
        return f"{self._subjects}.{check_kind(kind)}"

    async def _ensure_consumer(self, kind: str, subject: str) -> None:
        """Creates the consumer, or updates its ack_wait; its position in the stream is kept."""
        await self.ensure_stream()
        config = ConsumerConfig(
            durable_name=kind,
            filter_subject=subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self.ack_wait.total_seconds(),
            max_deliver=-1,
            max_ack_pending=-1,  # jobs delayed by nak count as unacknowledged and must not block others
        )
        await self._js.add_consumer(self._stream, config)
        self._ready.add(kind)

    async def _pull(self, kind: str, seconds: float) -> Msg | None:
        """Requests one message and waits for it; forgets the consumer if it turns out to be missing.

        For a missing consumer an old server stays silent; for an existing one the server sends heartbeats, or ends the
        request.
        """
        request: dict[str, object] = {"batch": 1}
        request.update({"expires": int(seconds * 1e9)} if seconds > 0.001 else {"no_wait": True})
        silence = max(seconds, 0) + GRACE_SECONDS
        if seconds > SILENCE_SECONDS:
            request["idle_heartbeat"] = int(HEARTBEAT_SECONDS * 1e9)
            silence = SILENCE_SECONDS
        inbox = self._connection.new_inbox()
        subscription = await self._connection.subscribe(inbox)
        try:
            reconnects = self._connection.stats["reconnects"]
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{kind}"
            await self._connection.publish(subject, json.dumps(request).encode(), reply=inbox)
            heard = time.monotonic()
            while (left := heard + silence - time.monotonic()) > 0:
                with suppress(nats.errors.TimeoutError):
                    message = await subscription.next_msg(timeout=min(left, HEARTBEAT_SECONDS))
                    if (message.headers or {}).get("Status") != "100":
                        return self._judge(kind, message)
                    heard = time.monotonic()
                if self._connection.stats["reconnects"] != reconnects:
                    return None  # the server has forgotten the request
            self._ready.discard(kind)
        finally:
            with suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()
        return None

    def _judge(self, kind: str, message: Msg) -> Msg | None:
        status = (message.headers or {}).get("Status")
        if status in _GONE:
            self._ready.discard(kind)
        return None if status else message
