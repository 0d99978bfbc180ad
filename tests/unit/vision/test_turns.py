"""Fair turns, step by step on the event loop."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from services.kit.telemetry import MemoryTelemetry
from services.vision.decode_metrics import ADMITTED, WAITING
from services.vision.turns import Places, Turns


class Crowd:
    """Callers that take turns; `running` names who has one, in the order in which they got it."""

    def __init__(self, total: int = 2, per_caller: int = 2) -> None:
        self.telemetry = MemoryTelemetry()
        self.turns = Turns(Places(total, per_caller, budget_bytes=100, small_bytes=10), self.telemetry)
        self.running: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def come(self, *names: str, size_bytes: int = 1) -> None:
        """Each name is a caller's letter and a number."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._work(name, size_bytes))
            await asyncio.sleep(0)
        await self._settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._settle()

    async def leave(self, name: str) -> None:
        self._tasks[name].cancel()
        await self._settle()

    async def leave_while(self, name: str, other: str) -> None:
        """One leaves at the very moment at which another gives its place back."""
        self._ends[other].set()
        self._tasks[name].cancel()  # it runs after the other, whose event was set before
        await self._settle()

    async def _work(self, name: str, size_bytes: int) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.turns.turn(name[0], size_bytes))
            self.running.append(name)
            stack.callback(self.running.remove, name)
            await self._ends[name].wait()

    async def _settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_callers_take_turns_however_much_one_of_them_has() -> None:
    crowd = Crowd()
    await crowd.come("a1", "a2", "a3", "a4", "a5", "b1", "c1")
    order: list[str] = []
    while crowd.running:
        order.append(crowd.running[0])
        await crowd.end(crowd.running[0])
    assert order == ["a1", "a2", "a3", "b1", "c1", "a4", "a5"]


async def test_one_caller_leaves_places_to_others() -> None:
    crowd = Crowd(total=4, per_caller=2)
    await crowd.come("a1", "a2", "a3", "b1")
    assert crowd.running == ["a1", "a2", "b1"]
    assert crowd.telemetry.value(WAITING) == 1


async def test_small_work_never_waits_for_bytes_and_large_work_gets_them_in_the_end() -> None:
    crowd = Crowd(total=9, per_caller=9)
    await crowd.come("a1", size_bytes=60)
    await crowd.come("b1", size_bytes=60)
    await crowd.come("c1", size_bytes=20)  # would fit, but would keep b1 waiting
    await crowd.come("d1", size_bytes=10)
    assert crowd.running == ["a1", "d1"]
    assert crowd.telemetry.value(ADMITTED) == 60
    await crowd.end("a1")
    assert crowd.running == ["d1", "b1", "c1"]


@pytest.mark.parametrize("gone", ["b1", "a1"])
async def test_who_goes_away_waiting_or_running_makes_room(gone: str) -> None:
    crowd = Crowd(total=9)
    await crowd.come("a1", "b1", size_bytes=90)
    await crowd.come("c1", size_bytes=90)
    await crowd.leave(gone)
    if gone == "b1":
        await crowd.end("a1")
    assert "c1" in crowd.running or crowd.running == ["b1"]
    for name in list(crowd.running):
        await crowd.end(name)
    for name in list(crowd.running):
        await crowd.end(name)
    assert (crowd.running, crowd.telemetry.value(WAITING), crowd.telemetry.value(ADMITTED)) == ([], 0, 0)


async def test_who_goes_away_at_the_moment_of_admission_keeps_no_place() -> None:
    crowd = Crowd(total=1)
    await crowd.come("a1", "b1")
    crowd._ends["a1"].set()
    await asyncio.sleep(0)  # a1 leaves, and its place is b1's before that runs
    assert not crowd.running
    crowd._tasks["b1"].cancel()
    await crowd.come("c1")
    assert crowd.running == ["c1"]


@pytest.mark.parametrize("size_bytes", [1, 60])
async def test_a_place_that_becomes_free_as_the_next_in_turn_leaves_goes_to_the_one_after(size_bytes: int) -> None:
    crowd = Crowd(total=1)
    await crowd.come("a1", "a2", "b1", size_bytes=size_bytes)
    await crowd.leave_while("a2", "a1")
    assert crowd.running == ["b1"]
    await crowd.end("b1")
    await crowd.come("a3")
    assert crowd.running == ["a3"]
    assert crowd.telemetry.value(WAITING) == 0
