"""One call in flight, and the times at which it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

import grpc
from grpc import StatusCode

from services.infra.admission import Place
from services.infra.open_calls import OpenPlace
from services.infra.server_metrics import FAULTS, Rpc
from services.kit.tracing import NO_SPAN, Span

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Waiting(Enum):
    """What a call waits for before its handler can go on."""

    NOTHING = 0
    TOKEN = 1  # for the issuer's keys
    ROOM = 2  # among the bytes in flight
    REQUEST = 3


@dataclass(eq=False, slots=True)
class Call:
    """A call in flight. `timeout` cancels it from within; rescheduling it to now ends the call (drain, limits)."""

    rpc: Rpc
    path: str
    context: Context
    timeout: asyncio.Timeout
    request_id: str
    started: float = field(default_factory=time.perf_counter)
    until: float | None = None  # when the call ends at the latest, by the loop's clock
    place: Place | None = None
    open_place: OpenPlace | None = None
    waiting: Waiting = Waiting.NOTHING
    begun: bool = False  # whether its first request is there
    evicted: bool = False
    ended: bool = False  # by `expire`
    closed: bool = False  # whether its handler has ended: then there is nothing to end
    code: StatusCode = StatusCode.OK
    reason: str = ""
    lapse: Exception | None = None  # why its token is no longer valid
    span: Span = NO_SPAN

    def describe(self) -> None:
        """Says in the call's span how it ended."""
        self.span.set("rpc.response.status_code", self.code.name)
        self.span.set("sightline.request_id", self.request_id)
        if self.code in FAULTS:
            self.span.fail(self.reason or self.code.name)

    def lapsed(self, refusal: Exception) -> None:
        """Ends the call with the refusal."""
        self.lapse = refusal
        self.expire()

    def when_sent(self, act: Callable[[], None]) -> None:
        """Calls `act` once gRPC has sent the whole response, or given up."""
        done: Any = lambda _context: act()  # noqa: E731 - typed for stubs that accept no function
        self.context.add_done_callback(done)

    @property
    def is_over(self) -> bool:
        """Whether it has reached the end that it had from the start."""
        return self.until is not None and asyncio.get_running_loop().time() >= self.until

    def expire(self) -> None:
        """Ends the call as soon as its handler can be interrupted; no effect if it has ended."""
        if not (self.ended or self.closed):
            self.ended = True
            if not self.timeout.expired():
                self.timeout.reschedule(asyncio.get_running_loop().time())

    def evict(self) -> None:
        """Ends the call for another."""
        self.evicted = True
        self.expire()

    def limit(self, seconds: float | None) -> None:
        """Ends the call in so many seconds, or at its own end if that is earlier."""
        if self.ended or self.closed or self.timeout.expired():
            return
        when = None if seconds is None else asyncio.get_running_loop().time() + seconds
        ends = [end for end in (when, self.until) if end is not None]
        self.timeout.reschedule(min(ends) if ends else None)
