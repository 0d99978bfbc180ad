"""The client's calls, whose failures are raised as errors of `sightline.client.errors`."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from typing import Protocol, TypeVar

import grpc

from sightline.client import progress
from sightline.client.errors import SightlineError
from sightline.client.grpc_errors import error_of
from sightline.client.stubs import WATCH_SECONDS, Stubs
from sightline.client.stubs_aio import AsyncStubs
from sightline.client.transport import retries
from sightline.client.transport.retries import AsyncStream, Stream

Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R", bound=retries.PageRequest)
P = TypeVar("P", bound=retries.Page)
M_co = TypeVar("M_co", covariant=True)
Q_contra = TypeVar("Q_contra", contravariant=True)


class Watch(Protocol[Q_contra, M_co]):
    """A Watch rpc of a blocking stub."""

    def __call__(self, request: Q_contra, /, timeout: float | None = None) -> Stream[M_co]:
        """Opens the stream."""
        ...


class AsyncWatch(Protocol[Q_contra, M_co]):
    """A Watch rpc of an asyncio stub."""

    def __call__(self, request: Q_contra, /, *, timeout: float | None = None) -> AsyncStream[M_co]:
        """Opens the stream."""
        ...


class Resource(Protocol):
    """A resource that works towards a final state."""

    @property
    def state(self) -> str:
        """The state's name."""
        ...

    @property
    def error(self) -> SightlineError | None:
        """Why it is FAILED."""
        ...


W = TypeVar("W", bound=Resource)


class Calls:
    """The calls of a `Client`."""

    def __init__(self, stubs: Stubs, reporter: progress.Reporter) -> None:
        self.stubs, self.reporter = stubs, reporter

    @contextmanager
    def raising(self) -> Generator[None]:
        """Turns what gRPC raises in the block into a SightlineError."""
        try:
            yield
        except grpc.RpcError as error:
            raise self.error_of(error) from error

    def error_of(self, error: grpc.RpcError) -> SightlineError:
        """The SightlineError for what gRPC raised."""
        return error_of(error, self.stubs.addresses, self.stubs.credentials)

    def ask(self, rpc: Callable[[Q], A], request: Q) -> A:
        """The response to a call."""
        with self.raising():
            return rpc(request)

    def pages(self, rpc: Callable[[R], P], request: R) -> P:
        """All pages of a list as one."""
        with self.raising():
            return retries.every_page(rpc, request)

    def watch(self, rpc: Watch[Q, A], request: Q) -> Generator[A]:
        """The messages of a stream, until the resource's final state."""
        with self.raising():
            yield from retries.follow(lambda: rpc(request, timeout=WATCH_SECONDS))

    def wait(self, title: str, states: Generator[W], step: Callable[[W], progress.Step]) -> None:
        """Reports the progress of a resource until its final state; raises its error if that is FAILED."""
        with self.reporter(title) as bar, closing(states):
            for resource in states:
                bar.update(*step(resource))
                _raise_if_failed(resource)


class AsyncCalls:
    """The calls of an `AsyncClient`."""

    def __init__(self, stubs: AsyncStubs, reporter: progress.Reporter) -> None:
        self.stubs, self.reporter = stubs, reporter

    @asynccontextmanager
    async def raising(self) -> AsyncGenerator[None]:
        """Turns what gRPC raises in the block into a SightlineError."""
        try:
            yield
        except grpc.RpcError as error:
            raise await self.error_of(error) from error

    async def error_of(self, error: grpc.RpcError) -> SightlineError:
        """The SightlineError for what gRPC raised; in a thread, since diagnosing a silent service blocks."""
        return await asyncio.to_thread(error_of, error, self.stubs.addresses, self.stubs.credentials)

    async def ask(self, rpc: Callable[[Q], Awaitable[A]], request: Q) -> A:
        """The response to a call."""
        async with self.raising():
            return await rpc(request)

    async def pages(self, rpc: Callable[[R], Awaitable[P]], request: R) -> P:
        """All pages of a list as one."""
        async with self.raising():
            return await retries.every_page_async(rpc, request)

    async def watch(self, rpc: AsyncWatch[Q, A], request: Q) -> AsyncGenerator[A]:
        """The messages of a stream, until the resource's final state."""
        async with self.raising():
            async for message in retries.follow_async(lambda: rpc(request, timeout=WATCH_SECONDS)):
                yield message

    async def wait(self, title: str, states: AsyncGenerator[W], step: Callable[[W], progress.Step]) -> None:
        """Reports the progress of a resource until its final state; raises its error if that is FAILED."""
        with self.reporter(title) as bar:
            async with aclosing(states):
                async for resource in states:
                    bar.update(*step(resource))
                    _raise_if_failed(resource)


def _raise_if_failed(resource: Resource) -> None:
    if resource.state == "FAILED" and resource.error:
        raise resource.error
