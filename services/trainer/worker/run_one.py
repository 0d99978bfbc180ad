"""A worker for one piece of work: what a pod of a job is."""

import asyncio
from collections.abc import Awaitable, Callable

from services.kit.clock import Clock


class RunOne:
    """Sets `stop` after the first trial or evaluation, or when none came in time.

    Jobs about which there is nothing to do, as somebody else has the work, do not count; they make the wait no longer.
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
        """Handles one job; jobs come one at a time."""
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
        """Ends the wait; a job in hand is finished first."""
        await self._clock.sleep(self._patience_seconds)
        self._late = True
        if not self._busy:
            self._stop.set()
