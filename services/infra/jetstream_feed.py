"""A stream's contents and then its new messages, in order, or an error at the first sign of a gap."""

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services.infra.jetstream import REQUEST_SECONDS
from services.kit.errors import Unavailable

MISSED_HEARTBEATS = 3


class Feed:
    """Each message of an ephemeral push consumer exactly once and in order, or Unavailable.

    A missing message is detected by the consumer's own sequence, a lost server or consumer by its heartbeats, and a
    lost connection by the count of reconnects.
    """

    def __init__(
        self, connection: Client, stream: str, subject: str, heartbeat: float, start: int | datetime | None = None
    ) -> None:
        """It starts with a sequence of the stream or at a time; by default with the last message of each subject."""
        self._connection = connection
        self._stream = stream
        self._start = start
        self._subject = subject
        self._heartbeat = heartbeat
        self._messages: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._consumer = ""  # its name, once the server has given it one
        self._reconnects = connection.stats["reconnects"]
        self._seen = 0

    async def open(self) -> None:
        """Starts it."""
        inbox = self._connection.new_inbox()
        self._subscription = await self._connection.subscribe(inbox, cb=self._messages.put)
        config = ConsumerConfig(
            deliver_subject=inbox,
            **self._begin(),
            filter_subject=self._subject,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,  # the server waits for us, so that a long list does not overflow the subscription
            idle_heartbeat=self._heartbeat,
            inactive_threshold=10 * self._heartbeat,
            num_replicas=1,
            mem_storage=True,
        )
        made = await self._connection.jetstream(timeout=REQUEST_SECONDS).add_consumer(self._stream, config)
        self._consumer = made.name

    def _begin(self) -> dict[str, Any]:
        if self._start is None:
            return {"deliver_policy": DeliverPolicy.LAST_PER_SUBJECT}
        if isinstance(self._start, int):
            return {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": self._start}
        return {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": self._start}

    async def close(self) -> None:
        """Removes the consumer, of which a stream has at most 1,000; without a connection the server does so later."""
        with suppress(nats.errors.Error, OSError):
            if self._subscription is not None:
                await self._subscription.unsubscribe()
            if self._consumer:
                await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}")

    async def next(self) -> Msg | None:
        """The next message, or None once the server has nothing more for now."""
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
        """Answers flow control; True for a heartbeat saying that everything has been delivered."""
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
        raise Unavailable(what=f"The stream {self._stream}", problem="it stopped sending heartbeats")

    def _check(self, holds: bool, problem: str) -> None:
        if not holds:
            raise Unavailable(what=f"The stream {self._stream}", problem=problem)
