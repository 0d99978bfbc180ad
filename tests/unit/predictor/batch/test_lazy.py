"""A predictor that runs only while there is work."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.predictor.app import Predictor
from services.predictor.batch.lazy import LazyPredictor
from tests.support.waiting import eventually, jump

IDLE_SECONDS = 60


class Starts:
    """Counts how often a predictor was started and ended."""

    def __init__(self) -> None:
        self.started = self.ended = 0
        self.predictor: Any = object()

    @asynccontextmanager
    async def start(self) -> AsyncGenerator[Predictor]:
        self.started += 1
        yield self.predictor
        self.ended += 1


@asynccontextmanager
async def lazy(starts: Starts) -> AsyncGenerator[LazyPredictor]:
    made = LazyPredictor(starts.start, IDLE_SECONDS)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_it_starts_with_the_first_use_and_stays_for_the_next() -> None:
    starts = Starts()
    async with lazy(starts) as made:
        await jump(10 * IDLE_SECONDS)
        assert starts.started == 0
        for _ in range(3):
            async with made.use() as found:
                assert found is starts.predictor
            await jump(IDLE_SECONDS / 2)
        assert (starts.started, starts.ended) == (1, 0)


async def test_it_ends_without_use_and_starts_again() -> None:
    starts = Starts()
    async with lazy(starts) as made:
        async with made.use():
            pass
        await asyncio.sleep(0.01)  # it notices that it is idle
        assert not made.ended.is_set()
        await jump(2 * IDLE_SECONDS)
        await eventually(made.ended.is_set)
        assert starts.ended == 1
        async with made.use() as found:
            assert found is starts.predictor
        assert starts.started == 2


async def test_it_never_ends_while_it_is_used() -> None:
    starts = Starts()
    async with lazy(starts) as made, made.use():
        async with made.use():
            pass
        await jump(10 * IDLE_SECONDS)
        assert starts.ended == 0


async def test_what_keeps_it_from_starting_ends_the_worker() -> None:
    @asynccontextmanager
    async def failing() -> AsyncGenerator[Predictor]:
        raise OSError("no room")
        yield

    made = LazyPredictor(failing, IDLE_SECONDS)
    task = asyncio.create_task(made.run())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), made.use():
            pass
    with pytest.raises(OSError, match="no room"):
        await task
