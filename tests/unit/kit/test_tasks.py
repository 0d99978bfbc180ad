"""Steps that are repeated, and tasks that run alongside a block."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from services.kit.clock import ManualClock
from services.kit.errors import LeaseLost, Unavailable
from services.kit.tasks import alongside, repeat, repeat_aside

LOST = LeaseLost(name="models/m", epoch=1)
AWAY = Unavailable(what="the records", problem="a test")


async def never() -> None:
    await asyncio.Event().wait()


async def failing(error: Exception) -> None:
    raise error


async def test_a_step_that_fails_is_logged_under_its_task_and_repeated_after_the_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes = iter([AWAY, ValueError("a defect"), None])
    calls: list[str] = []
    ended = asyncio.Event()

    async def step() -> None:
        calls.append("step")
        outcome = next(outcomes)
        if outcome:
            raise outcome
        ended.set()

    async def pause() -> None:
        calls.append("pause")
        if ended.is_set():
            await never()

    async with alongside(gauges=repeat(step, pause)):
        await ended.wait()
    assert calls[:5] == ["step", "pause", "step", "pause", "step"]
    failed = [record for record in caplog.records if record.message == "step_failed"]
    assert [(record.levelname, record.fields["task"]) for record in failed] == [  # pyright: ignore[reportAttributeAccessIssue] - set by Log
        ("WARNING", "gauges"),
        ("ERROR", "gauges"),
    ]


async def test_a_step_that_raises_what_is_not_survived_ends_the_repetition() -> None:
    outcomes = iter([AWAY, LOST])

    async def step() -> None:
        raise next(outcomes)

    with pytest.raises(LeaseLost):
        await repeat(step, lambda: asyncio.sleep(0), survives=Unavailable)


@pytest.mark.parametrize(("takes", "rests"), [(0.1, 2.0), (1.0, 9.0)])
async def test_what_is_done_aside_takes_a_tenth_of_the_time_at_most(takes: float, rests: float) -> None:
    clock, begun, enough = ManualClock(), list[float](), asyncio.Event()

    async def step() -> None:
        begun.append(clock.monotonic())
        await clock.sleep(takes)
        if len(begun) == 4:
            enough.set()

    repeated = asyncio.create_task(repeat_aside(step, clock, 2.0))
    await enough.wait()
    repeated.cancel()
    assert begun[1:4] == pytest.approx([number * (takes + rests) for number in (1, 2, 3)])


async def test_tasks_end_with_their_block() -> None:
    async def named() -> None:
        try:
            await never()
        finally:
            ends.append(asyncio.current_task().get_name())  # pyright: ignore[reportOptionalMemberAccess] - it is a task

    ends: list[str] = []
    async with alongside(one=named(), other=named()):
        await asyncio.sleep(0)
        assert ends == []
    assert ends == ["one", "other"]


async def test_a_task_that_fails_cancels_the_block_and_its_error_is_raised_bare() -> None:
    seen: list[type[BaseException] | None] = []

    async def block() -> None:
        async with alongside(lease=failing(LOST), other=never()), AsyncExitStack() as stack:
            stack.push(lambda kind, _, __: seen.append(kind))
            await never()

    with pytest.raises(LeaseLost):
        await block()
    assert seen == [asyncio.CancelledError]


async def test_an_error_of_the_block_is_raised_bare_also_from_within_a_group() -> None:
    with pytest.raises(LeaseLost):
        async with alongside(other=never()), asyncio.TaskGroup() as group:
            group.create_task(failing(LOST))


async def test_a_cancellation_from_outside_ends_block_and_tasks() -> None:
    ended: list[str] = []

    async def background() -> None:
        try:
            await never()
        finally:
            ended.append("background")

    async def block() -> None:
        async with alongside(other=background()):
            await never()

    task = asyncio.create_task(block())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["background"]
