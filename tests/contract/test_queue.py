"""The law of Queue, over the double and a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from services.infra import processes
from services.infra.jetstream import connect, connected
from services.infra.jetstream_queue import STREAM, JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.kit import tracing
from services.kit.clock import ManualClock
from services.kit.errors import RecordExists, Unavailable
from services.kit.memory import MemoryQueue
from services.kit.queue import MAX_DELIVERIES, Queue, is_poison
from services.kit.records import Table
from services.kit.tracing import TraceContext
from services.kit.views import View
from tests.support.servers import NATS_SERVERS, NatsServer
from tests.support.waiting import eventually

ACK_WAIT = timedelta(seconds=1)
SOON = timedelta(seconds=5)
BRIEFLY = timedelta(milliseconds=250)
NOW = timedelta(0)


@pytest.fixture(params=["memory", *NATS_SERVERS])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[Queue]:
    """An empty queue whose leases last a second."""
    if request.param == "memory":
        yield MemoryQueue(ack_wait=ACK_WAIT)
        return
    server: NatsServer = request.getfixturevalue(request.param)
    connection = await connect(server.url, "test")
    name = f"T{uuid.uuid4().hex[:8]}"
    yield JetStreamQueue(connection, ack_wait=ACK_WAIT, stream=name, subjects=name)
    with contextlib.suppress(NotFoundError):
        await connection.jetstream().delete_stream(name)
    await connection.close()


async def drain(queue: Queue, kind: str, wait: timedelta = BRIEFLY) -> list[bytes]:
    bodies: list[bytes] = []
    while (job := await queue.fetch(kind, wait)) is not None:
        bodies.append(job.body)
        await job.ack()
    return bodies


async def has(count: Callable[[str], Awaitable[int]], kind: str, expected: int) -> None:
    """nats-server counts a moment after it acknowledged what it counts."""
    async with asyncio.timeout(15):
        while await count(kind) != expected:  # noqa: ASYNC110 - the queue may be in another process
            await asyncio.sleep(0.02)


async def has_depth(queue: Queue, kind: str, expected: int) -> None:
    await has(queue.depth, kind, expected)


async def has_waiting(queue: Queue, kind: str, expected: int) -> None:
    await has(queue.waiting, kind, expected)


async def test_a_published_job_is_fetched_once_and_gone_after_its_ack(queue: Queue) -> None:
    await queue.publish("train", b"body")
    job = await queue.fetch("train", SOON)
    assert job is not None
    assert (job.kind, job.body, job.deliveries) == ("train", b"body", 1)
    assert await queue.fetch("train", NOW) is None
    await job.ack()
    await asyncio.sleep(ACK_WAIT.total_seconds() * 1.3)
    assert await queue.fetch("train", BRIEFLY) is None
    await has_depth(queue, "train", 0)


async def test_a_fetch_from_an_empty_queue_returns_nothing_after_about_the_requested_time(queue: Queue) -> None:
    await queue.fetch("train", NOW)
    for wait in (0.0, 0.4):
        began = time.monotonic()
        assert await queue.fetch("train", timedelta(seconds=wait)) is None
        assert wait * 0.9 <= time.monotonic() - began < wait + 5


async def test_a_waiting_fetch_gets_a_job_as_soon_as_it_is_published(queue: Queue) -> None:
    fetching = asyncio.create_task(queue.fetch("train", timedelta(seconds=30)))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await queue.publish("train", b"1")
    job = await fetching
    assert job is not None
    assert time.monotonic() - began < 10
    await job.ack()


async def test_a_job_carries_the_trace_in_which_it_was_published_and_says_how_old_it_is(queue: Queue) -> None:
    context = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=opaque")
    await queue.publish("work", b"without")
    with tracing.within(context):
        await queue.publish("work", b"with", "a deduplicated one")
    found = {job.body: job for _ in range(2) if (job := await queue.fetch("work", SOON))}
    assert (found[b"without"].trace, found[b"with"].trace) == (tracing.NO_TRACE, context)
    assert all(NOW <= job.age < timedelta(minutes=5) for job in found.values())


async def test_kinds_are_kept_apart(queue: Queue) -> None:
    for kind in ("train", "ingest", "train-big"):
        await queue.publish(kind, kind.encode())
    assert await drain(queue, "train") == [b"train"]
    assert await drain(queue, "train-big") == [b"train-big"]
    await has_depth(queue, "ingest", 1)
    await has_depth(queue, "other", 0)


@pytest.mark.parametrize("kind", ["", "a.b", "a b", "*", ">", "a/b", "ä"])
async def test_a_kind_of_other_characters_is_a_value_error(queue: Queue, kind: str) -> None:
    for call in (queue.publish(kind, b""), queue.fetch(kind, NOW), queue.depth(kind), queue.waiting(kind)):
        with pytest.raises(ValueError, match="not a kind"):
            await call


async def test_a_job_is_redelivered_and_counted_when_its_lease_expires(queue: Queue) -> None:
    await queue.publish("train", b"1")
    first = await queue.fetch("train", SOON)
    second = await queue.fetch("train", SOON)
    assert first is not None
    assert second is not None
    assert (first.deliveries, second.deliveries) == (1, 2)
    assert first.body == second.body
    await second.ack()
    assert await queue.fetch("train", ACK_WAIT * 1.5) is None


async def test_a_late_ack_still_removes_the_job(queue: Queue) -> None:
    await queue.publish("train", b"1")
    first = await queue.fetch("train", SOON)
    second = await queue.fetch("train", SOON)
    assert first is not None
    assert second is not None
    await first.ack()  # its lease has expired; acks are not fenced
    await second.ack()
    await has_depth(queue, "train", 0)


async def test_extending_keeps_the_job_in_flight(queue: Queue) -> None:
    await queue.publish("train", b"1")
    job = await queue.fetch("train", SOON)
    assert job is not None
    for _ in range(6):
        await asyncio.sleep(ACK_WAIT.total_seconds() / 3)
        await job.extend()
        assert await queue.fetch("train", NOW) is None
    again = await queue.fetch("train", SOON)  # no longer extended
    assert again is not None
    assert again.deliveries == 2
    await again.ack()


async def test_a_nak_redelivers_the_job_at_once(queue: Queue) -> None:
    await queue.publish("train", b"1")
    job = await queue.fetch("train", SOON)
    assert job is not None
    await job.nak()
    again = await queue.fetch("train", ACK_WAIT * 0.9)
    assert again is not None
    assert again.deliveries == 2


async def test_a_nak_with_a_delay_redelivers_the_job_after_the_delay(queue: Queue) -> None:
    await queue.publish("train", b"1")
    job = await queue.fetch("train", SOON)
    assert job is not None
    began = time.monotonic()
    await job.nak(ACK_WAIT * 2)
    await queue.publish("train", b"2")
    assert await drain(queue, "train", NOW) in ([b"2"], [])  # it does not block the others
    assert await queue.depth("train") >= 1
    while (again := await queue.fetch("train", SOON)) is not None and again.body == b"2":
        await again.ack()
    assert again is not None
    assert time.monotonic() - began >= ACK_WAIT.total_seconds() * 1.9
    await again.ack()


async def test_an_unsettled_job_becomes_poison_after_five_deliveries_and_stays(queue: Queue) -> None:
    await queue.publish("train", b"1")
    for delivery in range(1, MAX_DELIVERIES + 1):
        job = await queue.fetch("train", SOON)
        assert job is not None
        assert (job.deliveries, is_poison(job)) == (delivery, False)
        await job.nak()
    job = await queue.fetch("train", SOON)
    assert job is not None
    assert is_poison(job)
    await has_depth(queue, "train", 1)
    await job.ack()
    await has_depth(queue, "train", 0)


async def test_a_reused_dedup_id_publishes_nothing_even_after_the_ack(queue: Queue) -> None:
    await queue.publish("train", b"1", dedup_id="models/m:1")
    await queue.publish("train", b"2", dedup_id="models/m:1")
    await queue.publish("train", b"3", dedup_id="models/m:2")
    await queue.publish("ingest", b"4", dedup_id="models/m:1")
    assert await drain(queue, "train") == [b"1", b"3"]
    assert await drain(queue, "ingest") == [b"4"]
    await queue.publish("train", b"5", dedup_id="models/m:1")
    assert await drain(queue, "train", NOW) == []


async def test_the_double_forgets_a_dedup_id_after_two_minutes() -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock)
    for seconds, depth in ((0, 1), (119, 1), (2, 2)):
        clock.advance(seconds)
        await queue.publish("train", b"", dedup_id="1")
        assert await queue.depth("train") == depth


async def test_depth_counts_the_waiting_jobs_and_those_in_flight(queue: Queue) -> None:
    await has_depth(queue, "train", 0)
    for i in range(3):
        await queue.publish("train", str(i).encode())
    await has_depth(queue, "train", 3)
    job = await queue.fetch("train", SOON)
    assert job is not None
    await has_depth(queue, "train", 3)
    await job.ack()
    await has_depth(queue, "train", 2)


async def test_waiting_counts_the_fetches_of_a_kind_that_have_no_job_yet(queue: Queue) -> None:
    assert await queue.waiting("train") == 0
    fetching = {asyncio.create_task(queue.fetch("train", timedelta(seconds=30))) for _ in range(2)}
    await has_waiting(queue, "train", 2)
    assert await queue.waiting("ingest") == 0
    await queue.publish("train", b"1")
    await has_waiting(queue, "train", 1)
    done, left = await asyncio.wait(fetching, return_when=asyncio.FIRST_COMPLETED)
    for fetched in done:
        job = fetched.result()
        assert job is not None
        await job.ack()
    for fetch in left:
        fetch.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await has_waiting(queue, "train", 0)


async def test_consumers_share_the_jobs_and_each_is_done_once(queue: Queue) -> None:
    for i in range(40):
        await queue.publish("train", str(i).encode())
    shares = await asyncio.gather(*(drain(queue, "train") for _ in range(4)))
    assert sorted(int(body) for share in shares for body in share) == list(range(40))
    assert sum(bool(share) for share in shares) > 1


async def test_a_cancelled_fetch_loses_no_job(queue: Queue) -> None:
    for _ in range(3):
        fetching = asyncio.create_task(queue.fetch("train", timedelta(seconds=30)))
        await asyncio.sleep(0.1)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
    await queue.publish("train", b"1")
    job = await queue.fetch("train", SOON)
    assert job is not None
    assert job.deliveries == 1
    await job.ack()


# Real servers only.


@dataclass(frozen=True)
class Thing:
    text: str


async def test_a_killed_server_loses_no_acknowledged_write_and_work_continues(
    own_nats_server: NatsServer, own_connection: Client
) -> None:
    records, queue = JetStreamRecords(own_connection), JetStreamQueue(own_connection, ack_wait=ACK_WAIT)
    table, view = Table(records, Thing), View(records, Thing, "models", retry_seconds=0.1)
    stored: set[str] = set()
    done: set[str] = set()
    written: dict[str, int] = {}
    finished = asyncio.Event()

    async def produce() -> None:
        for i in range(200):
            name = f"models/m{i}"
            while name not in stored:
                try:
                    await queue.publish("train", name.encode(), dedup_id=name)
                    stored.add(name)
                except Unavailable:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.005)

    async def consume() -> None:
        while not finished.is_set():
            if (job := await queue.fetch("train", BRIEFLY)) is None:
                continue
            name = job.body.decode()
            try:
                written[name] = (await table.create(name, Thing("done"))).revision
            except Unavailable:
                continue  # redelivered
            except RecordExists:
                pass  # done before, but the ack was lost
            done.add(name)
            await job.ack()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        watching = group.create_task(view.run())
        consumers = [group.create_task(consume()) for _ in range(3)]
        producing = group.create_task(produce())
        await eventually(lambda: len(done) > 40)
        own_nats_server.kill()
        await asyncio.sleep(0.3)
        own_nats_server.start()
        await producing
        await eventually(lambda: len(done) == 200)
        await view.caught_up(max(written.values()), timeout_seconds=10)
        finished.set()
        await asyncio.gather(*consumers)
        watching.cancel()

    assert done == stored == {f"models/m{i}" for i in range(200)}
    assert {name: found.revision for name in written if (found := view.find(name))} == written
    assert len(view.all()) == 200
    await drain(queue, "train", ACK_WAIT * 2)  # acks that the crash lost
    await has_depth(queue, "train", 0)


async def test_a_deleted_stream_is_recreated_by_publish_and_by_fetch(own_connection: Client) -> None:
    queue, js = JetStreamQueue(own_connection, ack_wait=ACK_WAIT), own_connection.jetstream()
    await queue.publish("train", b"1")
    assert await drain(queue, "train") == [b"1"]

    await js.delete_stream(STREAM)
    await queue.publish("train", b"2")
    job = await queue.fetch("train", timedelta(seconds=20))
    assert job is not None
    assert job.body == b"2"

    fetching = asyncio.create_task(queue.fetch("train", timedelta(seconds=20)))
    await asyncio.sleep(0.3)
    await js.delete_stream(STREAM)
    await queue.publish("train", b"3")
    job = await fetching
    assert job is not None
    assert job.body == b"3"

    await js.delete_stream(STREAM)
    await has_depth(queue, "train", 0)
    await js.delete_stream(STREAM)
    assert await queue.fetch("train", timedelta(seconds=4)) is None
    assert (await js.consumer_info(STREAM, "train")).config.ack_wait == ACK_WAIT.total_seconds()


async def test_during_an_outage_fetch_returns_nothing_and_publish_raises(
    own_nats_server: NatsServer, own_connection: Client
) -> None:
    queue = JetStreamQueue(own_connection, ack_wait=ACK_WAIT)
    await queue.publish("train", b"1")
    job = await queue.fetch("train", SOON)
    assert job is not None
    own_nats_server.stop()
    await eventually(lambda: not own_connection.is_connected)
    began = time.monotonic()
    assert await queue.fetch("train", timedelta(seconds=1)) is None
    assert time.monotonic() - began >= 0.9  # a loop of fetches does not spin
    with pytest.raises(Unavailable):
        await queue.publish("train", b"2")
    with pytest.raises(Unavailable):
        await queue.depth("train")
    own_nats_server.start()
    again = await queue.fetch("train", SOON)
    assert again is not None
    assert again.body == b"1"
    assert again.deliveries in (1, 2)  # stopped at once, the server may not have stored the first delivery
    await again.ack()


async def test_an_existing_consumer_gets_a_new_ack_wait_and_keeps_its_jobs(own_connection: Client) -> None:
    await JetStreamQueue(own_connection, timedelta(seconds=30)).publish("train", b"1")
    await JetStreamQueue(own_connection, timedelta(seconds=30)).fetch("other", NOW)
    await has_depth(JetStreamQueue(own_connection, timedelta(seconds=30)), "train", 1)
    queue = JetStreamQueue(own_connection, ack_wait=ACK_WAIT)
    assert await drain(queue, "train") == [b"1"]
    info = await own_connection.jetstream().consumer_info(STREAM, "train")
    assert info.config.ack_wait == ACK_WAIT.total_seconds()
    assert info.config.max_deliver == -1


@pytest.mark.parametrize("name", NATS_SERVERS)
async def test_only_a_server_that_cannot_flush_each_write_causes_a_warning(
    name: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    server: NatsServer = request.getfixturevalue(name)
    connection = await connect(server.url, "test")
    await connection.close()
    assert ("nats.no_sync_interval" in caplog.text) is name.startswith("oldest")


def test_a_process_whose_connection_is_closed_for_good_exits_with_status_1(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "_exit", sys.exit)

    async def main(_stop: asyncio.Event) -> None:
        async with asyncio.timeout(10), connected(nats_server.url, "test") as connection:
            await connection._process_err("'maximum connections exceeded'")  # an error that a server may send
            await asyncio.Event().wait()

    with pytest.raises(SystemExit) as ended:
        processes.run(main)
    assert ended.value.code == 1
    assert "nats.closed" in caplog.text


async def test_a_connection_whose_server_is_gone_closes_without_an_error(own_nats_server: NatsServer) -> None:
    async with connected(own_nats_server.url, "test") as connection:
        own_nats_server.kill()
        while connection.is_connected:  # noqa: ASYNC110 - the client has no event for it
            await asyncio.sleep(0.01)
        await connection.publish("anything")  # pending when the connection closes
