"""Waits for conditions, and advances the event loop's clock instead of waiting for time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Returns once the condition holds; TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - the condition changes outside this event loop
            await asyncio.sleep(0.02)


async def jump(seconds: float) -> None:
    """Advances the running event loop's clock; returns once everything due by then has run."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds
    for _ in range(10):
        await asyncio.sleep(0)
