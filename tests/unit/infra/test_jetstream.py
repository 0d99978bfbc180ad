"""Calls to nats-server that are cancelled, or get no answer."""

import asyncio
from datetime import timedelta
from typing import Any, cast

import nats.js.errors
import pytest
from nats.aio.client import Client

from services.infra.jetstream import ask
from services.infra.jetstream_feed import Feed
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.nats_access import HeedingClient, heeding_cancellation
from services.kit.errors import Unavailable
from tests.support.waiting import jump


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


@pytest.mark.parametrize("what", ["fetch", "open", "restore"])
async def test_who_waits_for_jobs_or_changes_or_restores_a_stream_heeds_it_too(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hidden(*_: object, **__: object) -> Any:
        if begun.is_set():
            await asyncio.Event().wait()  # what follows the answer
        return await answer(begun, False)

    async def missing() -> str:
        raise nats.js.errors.NoStreamResponseError

    connection = HeedingClient()
    monkeypatch.setattr(Client, "is_connected", True)
    monkeypatch.setattr(Client, "request", hidden)
    monkeypatch.setattr(Client, "subscribe", lambda *_, **__: asyncio.sleep(0))
    monkeypatch.setattr(JetStreamQueue, "_pull", hidden)
    monkeypatch.setattr(JetStreamQueue, "_ensure_consumer", lambda *_: asyncio.sleep(0))
    calls = {
        "fetch": lambda: JetStreamQueue(connection, timedelta(seconds=1)).fetch("kind", timedelta(seconds=60)),
        "open": lambda: Feed(connection, "stream", "subject", 1.0).open(),
        "restore": lambda: ask(connection, "it", missing, lambda: connection.request("restore"), 60.0),
    }
    task = asyncio.ensure_future(calls[what]())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task], timeout=2)
    assert task.cancelled()


class Connection:
    """Up, or away for now."""

    is_closed = False

    def __init__(self, *, is_connected: bool) -> None:
        self.is_connected = is_connected


async def silent() -> Any:
    await asyncio.Event().wait()


async def missing() -> Any:
    raise nats.js.errors.NoStreamResponseError


@pytest.mark.parametrize(
    ("up", "call", "restore"),
    [(True, silent, silent), (True, missing, silent), (True, missing, missing), (False, silent, silent)],
)
async def test_a_call_without_an_answer_is_unavailable_within_two_seconds(up: bool, call: Any, restore: Any) -> None:
    connection = cast("Client", Connection(is_connected=up))
    task = asyncio.create_task(ask(connection, "the records", call, restore))
    await asyncio.sleep(0)
    for _ in range(20):
        await jump(0.1)
    with pytest.raises(Unavailable, match="the records"):
        await asyncio.wait_for(task, 0)
