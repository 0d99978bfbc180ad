"""Cancellation of calls to nats-server."""

import asyncio

import pytest

from services.infra.jetstream import heeding_cancellation


async def answer(begun: asyncio.Event, fails: bool) -> str:
    """Hides a cancellation while it waits, as `asyncio.wait_for` does when one coincides with the reply."""
    begun.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if fails:
            raise ValueError("the answer was an error") from None
    return "the answer"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_that_the_client_hides_still_ends_the_task(fails: bool) -> None:
    begun = asyncio.Event()
    task = asyncio.create_task(heeding_cancellation(lambda: answer(begun, fails)))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_a_cancelled_task_may_still_call_the_server_while_it_cleans_up() -> None:
    async def clean_up() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await heeding_cancellation(lambda: asyncio.sleep(0, "cleaned"))
        raise AssertionError("it waits until cancelled")

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cleaned"
