"""Calls that go on though a service goes and comes: streams that are opened again, lists of many pages."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar

import grpc

from sightline.client.channel import status_code, streaming

PATIENCE_SECONDS = 60.0  # how long a service may be away before a wait gives up
PAUSE_SECONDS = (0.2, 2.0)  # between two attempts: at first, at most
PAGE_SIZE = 1000
# What calls end with while a service goes and comes; CANCELLED is what gRPC's servers say in the moment of their end.
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

M_co = TypeVar("M_co", covariant=True)


class Patience:
    """Waits between attempts, a little longer each time, and gives up when nothing has worked for too long."""

    def __init__(
        self,
        limit_seconds: float = PATIENCE_SECONDS,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit_seconds, self._now, self._sleep = limit_seconds, now, sleep
        self.renew()

    def renew(self) -> None:
        """Something worked."""
        self._since: float | None = None
        self._pause_seconds = PAUSE_SECONDS[0]

    def bear(self, error: grpc.RpcError) -> None:
        """Returns after a pause if trying again may help; raises the error if not, or not for much longer."""
        self._sleep(self._pause(error))

    async def bear_async(self, error: grpc.RpcError) -> None:
        """The same of asyncio."""
        await asyncio.sleep(self._pause(error))

    def _pause(self, error: grpc.RpcError) -> float:
        """How long to wait before the next attempt; raises the error if there should be none."""
        if status_code(error) not in AWAY:
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
        """Appends the repeated fields of the other."""
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
    """The same of asyncio."""
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
    """The responses of a streaming call of asyncio."""

    def __aiter__(self) -> AsyncIterator[M_co]:
        """The messages as they come."""
        ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


def follow(open_stream: Callable[[], Stream[M_co]], patience: Patience | None = None) -> Iterator[M_co]:
    """Every message of a Watch rpc until it ends with OK, which it does after the resource's final state.

    A stream that breaks because the service went away, or was open for as long as one may be, is opened again; a
    message may then come twice. Raises UNAVAILABLE once the service has been away for PATIENCE_SECONDS.
    """
    patience = patience or Patience()
    while True:
        try:
            with streaming(open_stream()) as messages:
                for message in messages:
                    patience.renew()
                    yield message
        except grpc.RpcError as error:
            patience.bear(error)
        else:
            return


async def follow_async(open_stream: Callable[[], AsyncStream[M_co]]) -> AsyncGenerator[M_co]:
    """The same of asyncio."""
    patience = Patience()
    while True:
        try:
            with streaming(open_stream()) as messages:
                async for message in messages:
                    patience.renew()
                    yield message
        except grpc.RpcError as error:
            await patience.bear_async(error)
        else:
            return
