"""A channel that is reopened when its certificates have been replaced, blocking or asyncio."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import grpc

from sightline.client.transport.reloading import ReloadingFiles

C = TypeVar("C", bound="grpc.Channel | grpc.aio.Channel")
BEGIN_SECONDS = 5.0  # a call that got the channel begins within this time
END_SECONDS = 3600.0  # the longest that a stream may last


class ReopeningChannel(Generic[C]):
    """Stands in for a channel: has what a stub and an interceptor need of one.

    Law: each call uses a channel with the current credentials. Calls begun on the former channel end undisturbed; it
    closes after the last of them.
    """

    def __init__(
        self, credentials: ReloadingFiles[grpc.ChannelCredentials], open_channel: Callable[[grpc.ChannelCredentials], C]
    ) -> None:
        self._credentials = credentials
        self._open = open_channel
        self._with = credentials.get()
        self._channel = open_channel(self._with)

    def current(self) -> C:
        """The channel for the next call."""
        now = self._credentials.get()
        if now is not self._with:
            former, self._with, self._channel = self._channel, now, self._open(now)
            self._retire(former)
        return self._channel

    def _retire(self, channel: C) -> None:
        """Does nothing: a blocking channel closes itself when its last call has released it."""

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Calls(self.current, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Calls(self.current, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Calls(self.current, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Calls(self.current, "stream_stream", args, kwargs)

    def close(self) -> Any:
        """Closes the current channel."""
        return self._channel.close()


class AsyncReopeningChannel(ReopeningChannel[grpc.aio.Channel]):
    """The asyncio version, where a channel that nothing refers to would cut off its calls."""

    def __init__(
        self,
        credentials: ReloadingFiles[grpc.ChannelCredentials],
        open_channel: Callable[[grpc.ChannelCredentials], grpc.aio.Channel],
    ) -> None:
        super().__init__(credentials, open_channel)
        self._retiring: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._channel.close()

    def _retire(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.create_task(_close_later(channel), name="close the former channel")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


async def _close_later(channel: grpc.aio.Channel) -> None:
    try:
        await asyncio.sleep(BEGIN_SECONDS)
        await channel.close(END_SECONDS)
    finally:
        await channel.close()


class _Calls:
    """The calls of one rpc, each on the channel that is current when it begins."""

    def __init__(self, current: Callable[[], Any], kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._current = current
        self._kind, self._args, self._kwargs = kind, args, kwargs
        self._made: tuple[Any, Any] = (None, None)

    def _callable(self) -> Any:
        channel, made = self._made
        now = self._current()
        if now is not channel:
            made = getattr(now, self._kind)(*self._args, **self._kwargs)
            self._made = (now, made)
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._callable()(*args, **kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._callable().with_call(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        return self._callable().future(*args, **kwargs)
