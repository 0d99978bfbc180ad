"""Admission: who gets a place among a server's calls, and how many bytes the calls may hold together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.infra.limits import Amounts, Bucket, Limits
from services.infra.server_metrics import BYTES, IN_FLIGHT, REFUSED, Limit, Whose
from services.kit.callers import ALL_PROJECTS, Caller
from services.kit.errors import Overloaded, SightlineError, Throttled
from services.kit.roles import Role
from services.kit.telemetry import Telemetry

REMEMBERED = 1000  # idle callers and projects, before those whose buckets are full are forgotten


_SETTINGS = {
    (Whose.CALLER, Limit.RATE): "SIGHTLINE_CALLER_RATE",
    (Whose.PROJECT, Limit.RATE): "SIGHTLINE_PROJECT_RATE",
    (Whose.CALLER, None): "SIGHTLINE_CALLER_SHARE",
    (Whose.PROJECT, None): "SIGHTLINE_PROJECT_SHARE",
}
_WORDS = {
    Limit.CALLS: "calls in flight",
    Limit.STREAMS: "streams in flight",
    Limit.BYTES: "bytes in flight",
    Limit.RATE: "calls a second",
}


@dataclass(eq=False, slots=True)
class Scope:
    """Calls that share limits: everybody's, all but admins', one caller's or one project's."""

    whose: Whose
    name: str
    most: Amounts
    rate: float = 0
    bucket: Bucket | None = None
    calls: int = 0
    streams: int = 0
    bytes: int = 0

    def exceeded(self, *, stream: bool) -> Limit | None:
        """The limit that one more call would exceed."""
        if self.calls >= self.most.calls:
            return Limit.CALLS
        return Limit.STREAMS if stream and self.streams >= self.most.streams else None

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not self.calls and (self.bucket is None or self.bucket.is_full)


@dataclass(eq=False, slots=True)
class Place:
    """An admitted call's place."""

    scopes: tuple[Scope, ...]
    stream: bool
    bytes: int = 0
    left: bool = False

    def fits(self, size: int) -> bool:
        """Whether the call may hold `size` bytes; the only call of a scope that holds any always may."""
        return all(
            scope.bytes - self.bytes + size <= scope.most.bytes or scope.bytes == self.bytes for scope in self.scopes
        )


class Admission:
    """Divides a server among its callers.

    Law: a call takes its place at its headers and keeps it until the last byte of the response is sent. Neither the
    calls of a caller, its streams nor the bytes that they hold exceed the caller's share, nor those of a project
    its share.
    A caller for all projects has a share in each of them.
    Streams leave places for short calls, and everybody else leaves places for admins, whom no project's limit holds
    back. Without tokens nobody is told apart, and only the server's own limits hold.
    """

    def __init__(
        self, service: str, limits: Limits, telemetry: Telemetry, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._service, self._limits, self._telemetry, self._monotonic = service, limits, telemetry, monotonic
        self._everybody = Scope(Whose.SERVER, service, limits.most)
        self._ordinary = Scope(Whose.SERVER, service, limits.ordinary)
        self._scopes: dict[tuple[Whose, str], Scope] = {}
        self._waiting: deque[tuple[asyncio.Future[None], Place, int]] = deque()
        for labels in REFUSED.series():  # so that a rate sees the first
            telemetry.add(REFUSED, 0, **labels)

    def tell(self) -> None:
        """Sets the gauges; not at every call, as that would cost more than admission itself."""
        total = self._everybody
        self._telemetry.set(BYTES, total.bytes)
        self._telemetry.set(IN_FLIGHT, total.calls - total.streams, kind="unary")
        self._telemetry.set(IN_FLIGHT, total.streams, kind="stream")

    def enter(self, caller: Caller | None, *, stream: bool) -> Place:
        """A place for a call; Overloaded if the server is full, Throttled if the caller or project has its share."""
        scopes = self._scopes_of(caller)
        for scope in scopes:
            if scope.bucket and not scope.bucket.take():
                raise self._refusal(scope, Limit.RATE)
        for scope in scopes:
            if limit := scope.exceeded(stream=stream):
                raise self._refusal(scope, limit)
        for scope in scopes:
            scope.calls += 1
            scope.streams += stream
        return Place(scopes, stream)

    def leave(self, place: Place) -> None:
        """Gives the place and its bytes back; again does nothing."""
        if place.left:
            return
        place.left = True
        for scope in place.scopes:
            scope.calls -= 1
            scope.streams -= place.stream
        self.hold(place, 0)

    async def room(self, place: Place, size: int) -> None:
        """Returns once the call may hold `size` bytes, which it then does."""
        if place.fits(size):
            self.hold(place, size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (turn, place, size)
        self._waiting.append(entry)
        try:
            await turn
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def check(self, place: Place, size: int) -> None:
        """The call now holds `size` bytes; Overloaded or Throttled if that is too much."""
        if not place.fits(size):
            raise self.lack(place, size)
        self.hold(place, size)

    def lack(self, place: Place, size: int) -> SightlineError:
        """Counts and returns the refusal of a call for which there is no room."""
        full = (scope for scope in place.scopes if scope.bytes - place.bytes + size > scope.most.bytes)
        return self._refusal(next(full, self._everybody), Limit.BYTES)

    def hold(self, place: Place, size: int) -> None:
        """The call now holds `size` bytes, whatever the limits: they are in memory already, or given back."""
        change = size - place.bytes
        if not change:
            return
        place.bytes = size
        for scope in place.scopes:
            scope.bytes += change
        if change < 0:
            self._let_in()

    def _refusal(self, scope: Scope, limit: Limit) -> SightlineError:
        """Counts the refusal; its error."""
        self._telemetry.add(REFUSED, limit=limit, whose=scope.whose)
        most = scope.rate if limit is Limit.RATE else getattr(scope.most, limit)
        words = _WORDS[limit]
        if scope.whose is Whose.SERVER:
            return Overloaded(service=self._service, limit=most, what=words)
        setting = _SETTINGS.get((scope.whose, limit)) or _SETTINGS[scope.whose, None]
        subject = f"{scope.whose} {scope.name}"
        return Throttled(
            subject=subject, limit=f"{most:g}" if limit is Limit.RATE else most, what=words, setting=setting
        )

    def _let_in(self) -> None:
        """Wakes the calls that wait for bytes and now fit, in the order in which they came."""
        for _ in range(len(self._waiting)):
            turn, place, size = entry = self._waiting.popleft()
            if turn.done() or place.left:
                continue
            if not place.fits(size):
                self._waiting.append(entry)
                continue
            self.hold(place, size)
            turn.set_result(None)

    def _scopes_of(self, caller: Caller | None) -> tuple[Scope, ...]:
        if caller is None:
            return (self._everybody,)
        limits = self._limits
        # A caller for all projects may be a service that calls for one of them: it must not use up the others' share.
        name = f"{caller.name} for {caller.project}" if ALL_PROJECTS in caller.projects else caller.name
        own = self._scope(Whose.CALLER, name, limits.caller, limits.caller_rate)
        if Role.ADMIN in caller.roles:
            return (own, self._everybody)
        project = self._scope(Whose.PROJECT, caller.project, limits.project, limits.project_rate)
        return (own, project, self._ordinary, self._everybody)

    def _scope(self, whose: Whose, name: str, most: Amounts, rate: float) -> Scope:
        scope = self._scopes.get((whose, name))
        if scope is None:
            if len(self._scopes) >= REMEMBERED:
                self._scopes = {key: scope for key, scope in self._scopes.items() if not scope.is_idle}
            bucket = Bucket(rate, self._monotonic) if rate else None
            scope = self._scopes[whose, name] = Scope(whose, name, most, rate, bucket)
        return scope
