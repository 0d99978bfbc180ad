"""A worker for one piece of work, as in a pod of a Kubernetes Job."""

import asyncio
from collections.abc import Awaitable, Callable

from services.kit.clock import Clock


class RunOne:
    """Sets `stop` after the first trial or evaluation, or if none arrives in time.

    Jobs with nothing to do, because another worker has the work, do not count and do not extend the wait.
    """

    def __init__(
        self, handle: Callable[[str], Awaitable[bool]], stop: asyncio.Event, clock: Clock, patience_seconds: float
    ) -> None:
        self._handle = handle
        self._stop = stop
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._busy = self._late = False

    async def handle(self, name: str) -> None:
        """Handles one job; calls must not overlap."""
        self._busy = True
        try:
            worked = await self._handle(name)
        finally:
            self._busy = False
            if self._late:
                self._stop.set()
        if worked:
            self._stop.set()

    async def watch(self) -> None:
        """Sets `stop` after the patience, or once the job in flight is done."""
        await self._clock.sleep(self._patience_seconds)
        self._late = True
        if not self._busy:
            self._stop.set()
