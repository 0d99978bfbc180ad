"""Calls that survive a service's restart: streams that are reopened, and lists of several pages."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar

import grpc

from sightline.client.transport.channel import status_code, streaming

GIVE_UP_SECONDS = 60.0  # how long a service may be away before a wait gives up
PAUSE_SECONDS = (0.2, 2.0)  # between two attempts: at first, at most
PAGE_SIZE = 1000
# How calls fail while a service restarts; gRPC's servers return CANCELLED as they shut down.
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

M_co = TypeVar("M_co", covariant=True)


class Backoff:
    """Waits between attempts, longer each time, and gives up when none has succeeded for too long."""

    def __init__(
        self,
        limit_seconds: float = GIVE_UP_SECONDS,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit_seconds, self._now, self._sleep = limit_seconds, now, sleep
        self.reset()

    def reset(self) -> None:
        """Starts over."""
        self._since: float | None = None
        self._pause_seconds = PAUSE_SECONDS[0]
        self._was_admitted = False

    def succeeded(self) -> None:
        """Starts over after a success: if the token has expired since, one attempt more may find a new one."""
        self.reset()
        self._was_admitted = True

    def wait(self, error: grpc.RpcError) -> None:
        """Returns after a pause if a retry may succeed; raises the error if not, or when time is up."""
        self._sleep(self._pause(error))

    async def wait_async(self, error: grpc.RpcError) -> None:
        """The asyncio version of `wait`."""
        await asyncio.sleep(self._pause(error))

    def _pause(self, error: grpc.RpcError) -> float:
        """Seconds until the next attempt; raises the error if there is to be none."""
        code, was_admitted = status_code(error), self._was_admitted
        self._was_admitted = False
        if code not in AWAY and not (code is grpc.StatusCode.UNAUTHENTICATED and was_admitted):
            raise error
        now = self._now()
        self._since = now if self._since is None else self._since
        if now - self._since > self._limit_seconds:
            raise error
        seconds = self._pause_seconds
        self._pause_seconds = min(2 * seconds, PAUSE_SECONDS[1])
        return seconds


class Page(Protocol):
    """A response of a List rpc."""

    next_page_token: str

    def MergeFrom(self, other: Any, /) -> None:  # noqa: N802 - protobuf's name
        """Appends the other's repeated fields."""
        ...


class PageRequest(Protocol):
    """A request of a List rpc."""

    page_size: int
    page_token: str


Q = TypeVar("Q", bound=PageRequest)
P = TypeVar("P", bound=Page)


def every_page(call: Callable[[Q], P], request: Q) -> P:
    """The pages of a List rpc as one response, without a token."""
    request.page_size = request.page_size or PAGE_SIZE
    whole = call(request)
    while whole.next_page_token:
        request.page_token = whole.next_page_token
        _append(whole, call(request))
    return whole


async def every_page_async(call: Callable[[Q], Awaitable[P]], request: Q) -> P:
    """The asyncio version of `every_page`."""
    request.page_size = request.page_size or PAGE_SIZE
    whole = await call(request)
    while whole.next_page_token:
        request.page_token = whole.next_page_token
        _append(whole, await call(request))
    return whole


def _append(whole: Page, page: Page) -> None:
    whole.MergeFrom(page)
    whole.next_page_token = page.next_page_token


class Stream(Protocol[M_co]):
    """The responses of a streaming call."""

    def __iter__(self) -> Iterator[M_co]:
        """The messages as they come."""
        ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


class AsyncStream(Protocol[M_co]):
    """The responses of an asyncio streaming call."""

    def __aiter__(self) -> AsyncIterator[M_co]:
        """The messages as they come."""
        ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


def follow(open_stream: Callable[[], Stream[M_co]], backoff: Backoff | None = None) -> Iterator[M_co]:
    """Every message of a Watch rpc until it ends with OK, as it does after the resource's final state.

    A stream that breaks because the service restarts, because it reached the time limit for streams, or because its
    token expired, is reopened; a message may then come twice. Raises UNAVAILABLE once the service has been away for
    GIVE_UP_SECONDS, and UNAUTHENTICATED if the current token is not valid either.
    """
    backoff = backoff or Backoff()
    while True:
        try:
            with streaming(open_stream()) as messages:
                for message in messages:
                    backoff.succeeded()
                    yield message
        except grpc.RpcError as error:
            backoff.wait(error)
        else:
            return


async def follow_async(open_stream: Callable[[], AsyncStream[M_co]]) -> AsyncGenerator[M_co]:
    """The asyncio version of `follow`."""
    backoff = Backoff()
    while True:
        try:
            with streaming(open_stream()) as messages:
                async for message in messages:
                    backoff.succeeded()
                    yield message
        except grpc.RpcError as error:
            await backoff.wait_async(error)
        else:
            return
