"""Reads the audit's stream: one page of the entries that filters match."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from services.infra.audit import VERSION, Entry
from services.infra.audit_nats import STREAM, SUBJECTS
from services.infra.jetstream import REQUEST_SECONDS, connected
from services.infra.jetstream_feed import Feed
from services.infra.nats_access import NatsAccess
from services.kit.errors import Unavailable
from services.kit.settings import Settings
from services.kit.telemetry import Telemetry

HEARTBEAT_SECONDS = 0.5  # also how long an empty answer takes
MAX_READ = 10_000  # entries that one call reads, whether or not they match
STEP = 500  # entries that are read together when the latest come first


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the entries must be; empty ones match everything."""

    start: datetime | None = None
    end: datetime | None = None
    subject: str = ""
    project: str = ""
    rpc: str = ""
    resource: str = ""
    codes: tuple[str, ...] = ()

    def match(self, entry: Entry) -> bool:
        """Whether all of them do."""
        time = datetime.fromisoformat(entry.time)
        return (
            (self.start is None or time >= self.start)
            and (self.end is None or time < self.end)
            and self.subject in ("", entry.subject, f"{entry.issuer}:{entry.subject}")
            and self.project in ("", entry.project)
            and self.rpc in ("", entry.rpc, entry.rpc.rpartition("/")[2])
            and (not self.resource or f"{entry.resource}/".startswith(f"{self.resource}/"))
            and (not self.codes or entry.code in self.codes)
        )


Wanted: TypeAlias = Callable[[Msg], Entry | None]


class AuditLog:
    """The stream."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection

    async def page(
        self, filters: Filters, may_see: Callable[[Entry], bool], size: int, position: int = 0, *, latest: bool = False
    ) -> tuple[list[Entry], int]:
        """At most `size` entries behind the position, and the position to go on from, 0 at the end.

        With `latest`, the latest first, and those before the position. Unavailable.
        """

        def wanted(message: Msg) -> Entry | None:
            entry = _entry(message)
            return entry if entry and may_see(entry) and filters.match(entry) else None

        try:
            first, last = await self._ends()
            if latest:
                before = min(position or last + 1, last + 1)
                return await self._down(wanted, filters.start, size, first, before)
            if position >= last:
                return [], 0
            start = position + 1 if position or filters.start is None else filters.start
            return await self._up(wanted, size, start, last)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(what="The audit", problem=str(error) or type(error).__name__) from error

    async def _up(self, wanted: Wanted, size: int, start: int | datetime, last: int) -> tuple[list[Entry], int]:
        found: list[Entry] = []
        read = 0
        async with aclosing(self._messages(start)) as messages:
            async for message in messages:
                position, read = message.metadata.sequence.stream, read + 1
                found += [entry] if (entry := wanted(message)) else []
                if position >= last:
                    break
                if len(found) == size or read == MAX_READ:
                    return found, position
        return found, 0

    async def _down(
        self, wanted: Wanted, start: datetime | None, size: int, first: int, before: int
    ) -> tuple[list[Entry], int]:
        """Reads upwards by steps, each below the one before."""
        found: list[Entry] = []
        read = 0
        while before > first and read < MAX_READ:
            bottom = max(first, before - STEP)
            step = [message async for message in self._below(bottom, before)]
            for message in reversed(step):
                found += [entry] if (entry := wanted(message)) else []
                if len(found) == size:
                    position = message.metadata.sequence.stream
                    return found, position if position > first else 0
            if start and step and step[0].metadata.timestamp < start:
                return found, 0
            before, read = bottom, read + STEP
        return found, before if before > first else 0

    async def _below(self, start: int, before: int) -> AsyncGenerator[Msg]:
        async with aclosing(self._messages(start)) as messages:
            async for message in messages:
                position = message.metadata.sequence.stream
                if position < before:
                    yield message
                if position >= before - 1:
                    return

    async def _messages(self, start: int | datetime) -> AsyncGenerator[Msg]:
        """Those that are there."""
        feed = Feed(self._connection, STREAM, f"{SUBJECTS}.*", HEARTBEAT_SECONDS, start)
        try:
            await feed.open()
            while message := await feed.next():
                yield message
        finally:
            await feed.close()

    async def _ends(self) -> tuple[int, int]:
        """The positions of the first and the last entry; 1 and 0 if there is none."""
        try:
            info = await self._connection.jetstream(timeout=REQUEST_SECONDS).stream_info(STREAM)
        except nats.js.errors.NotFoundError:
            return 1, 0
        return (info.state.first_seq, info.state.last_seq) if info.state.messages else (1, 0)


def _entry(message: Msg) -> Entry | None:
    """None for what this version does not understand; the service is the one that may publish to the subject."""
    try:
        values: dict[str, Any] = json.loads(message.data)
        known: dict[str, Any] = {name: values[name] for name in Entry.__slots__}
        entry = replace(Entry(**known), service=message.subject.rpartition(".")[2])
        datetime.fromisoformat(entry.time)
    except (ValueError, KeyError, TypeError):
        return None
    return entry if entry.audit == VERSION else None


@asynccontextmanager
async def open_log(settings: Settings, name: str, telemetry: Telemetry) -> AsyncGenerator[AuditLog | None]:
    """The stream, if the settings say that there is one. Raises what `connected` does."""
    if "nats" not in settings.audit_sinks:
        yield None
        return
    async with connected(settings.nats_url, f"{name}-audit-log", NatsAccess.of(settings), telemetry) as connection:
        yield AuditLog(connection)
