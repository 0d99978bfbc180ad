"""Waiting for what another process or thread does, and not waiting for time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    """Returns once it holds; TimeoutError if it does not in time."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for happens outside of this event loop
            await asyncio.sleep(0.02)


async def jump(seconds: float) -> None:
    """Makes the running event loop's clock jump; returns when everything due by then has had its turn."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds
    for _ in range(10):
        await asyncio.sleep(0)
