"""How much of a server one caller, one project and everybody together may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.kit.settings import Settings

KIB, MIB = 1024, 1024 * 1024
REQUEST_BYTES = 64 * KIB  # of the request of most rpcs; the longest legal CreateDataset has 40 KiB
RECEIVING_BYTES_PER_SECOND = 256 * KIB  # the slowest sender of a large message that is waited for
BURST_SECONDS = 2.0  # of the rate, which a caller that has been idle may use at once


@dataclass(frozen=True, slots=True)
class Amounts:
    """Calls in flight, streams among them, and bytes in memory for them."""

    calls: int
    streams: int
    bytes: int

    def share(self, part: float) -> Amounts:
        """The part of each, at least 1."""
        return Amounts(*(max(1, int(part * whole)) for whole in (self.calls, self.streams, self.bytes)))


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a server's calls."""

    most: Amounts
    ordinary: Amounts  # of everybody but admins
    caller: Amounts
    project: Amounts
    caller_rate: float  # calls a second; 0: not limited
    project_rate: float
    open_calls: int  # of rpcs that need no token
    request_seconds: float  # for a request to arrive
    stream_idle_seconds: float  # between two messages of a caller's stream
    stream_seconds: float
    request_bytes: dict[str, int] = field(default_factory=dict[str, int])  # of the rpcs with large requests, by name

    @classmethod
    def of(cls, settings: Settings, request_bytes: dict[str, int]) -> Limits:
        """As the settings say."""
        streams = max(1, int(settings.max_calls * settings.stream_share))
        most = Amounts(settings.max_calls, streams, settings.max_bytes_in_flight)
        return cls(
            most=most,
            ordinary=most.share(1 - settings.admin_share),
            caller=most.share(settings.caller_share),
            project=most.share(settings.project_share),
            caller_rate=settings.caller_rate,
            project_rate=settings.project_rate,
            open_calls=settings.max_open_calls,
            request_seconds=settings.request_seconds,
            stream_idle_seconds=settings.stream_idle_seconds,
            stream_seconds=settings.max_stream_seconds,
            request_bytes=request_bytes,
        )

    @property
    def message_bytes(self) -> int:
        """The largest message that the server's rpcs take: gRPC receives whole messages, whichever rpc they are for."""
        return max(REQUEST_BYTES, *self.request_bytes.values(), 0)

    def bytes_of(self, method: str) -> int:
        """The largest request of the rpc."""
        return self.request_bytes.get(method, REQUEST_BYTES)

    def seconds_of(self, method: str) -> float:
        """How long the rpc's request may take to arrive."""
        return self.request_seconds + self.request_bytes.get(method, 0) / RECEIVING_BYTES_PER_SECOND


class Bucket:
    """A token bucket: `rate` calls a second on average, and BURST_SECONDS of it at once."""

    def __init__(self, rate: float, monotonic: Callable[[], float]) -> None:
        self._rate, self._most, self._monotonic = rate, max(1.0, rate * BURST_SECONDS), monotonic
        self._left, self._at = self._most, monotonic()

    def take(self) -> bool:
        """Takes one token; False if there is none."""
        self._refill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def is_full(self) -> bool:
        """Whether the caller has been idle for so long that the bucket remembers nothing."""
        self._refill()
        return self._left >= self._most

    def _refill(self) -> None:
        now = self._monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
