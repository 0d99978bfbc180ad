"""A predictor that runs only while there is work, so that an idle worker is small."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from services.predictor.app import Predictor


class LazyPredictor:
    """Starts when it is first used, and ends when nobody has used it for `idle_seconds`; `run` must be running.

    Law: within `use` it runs, and its models stay loaded from one use to the next. `ended` is set once it has ended.
    """

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[Predictor]], idle_seconds: float) -> None:
        self._start = start
        self._idle_seconds = idle_seconds
        self.ended = asyncio.Event()
        self._users = 0
        self._wanted, self._unused, self._running = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._predictor: Predictor | None = None

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[Predictor]:
        """The predictor, for the block."""
        self._users += 1
        self._unused.clear()
        self._wanted.set()
        try:
            await self._running.wait()
            assert self._predictor is not None, "it is running"
            yield self._predictor
        finally:
            self._users -= 1
            if not self._users:
                self._wanted.clear()
                self._unused.set()

    async def run(self) -> None:
        """Starts and ends it until cancelled; raises what starting it raises."""
        while True:
            await self._wanted.wait()
            async with self._start() as self._predictor:
                self._running.set()
                try:
                    await self._until_idle()
                finally:
                    self._running.clear()
            self._predictor = None
            self.ended.set()

    async def _until_idle(self) -> None:
        while True:
            await self._unused.wait()
            try:
                async with asyncio.timeout(self._idle_seconds):
                    await self._wanted.wait()
            except TimeoutError:
                if not self._users:
                    return
