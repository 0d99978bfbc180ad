"""The work loop: every way in which a job can end."""

import asyncio
from datetime import timedelta
from itertools import pairwise

from services.kit.clock import ManualClock, SystemClock
from services.kit.consume import JOBS, RUNNING, Job, consume, delay_after
from services.kit.errors import LeaseLost, Unavailable
from services.kit.memory import MemoryQueue
from services.kit.queue import MAX_DELIVERIES
from services.kit.telemetry import MemoryTelemetry


class Harness:
    """A worker on an in-memory queue, whose clock advances at every sleep."""

    def __init__(self, clock=None) -> None:
        self.clock = clock or ManualClock()
        self.queue = MemoryQueue(self.clock)
        self.telemetry = MemoryTelemetry()
        self.stop = asyncio.Event()
        self.handled: list[bytes] = []
        self.poisoned: list[bytes] = []

    async def handle(self, body: bytes) -> None:
        self.handled.append(body)
        self.stop.set()

    async def poison(self, body: bytes) -> None:
        self.poisoned.append(body)
        self.stop.set()

    async def run(self, **options) -> None:
        async with asyncio.timeout(60):
            await consume(
                self.queue,
                Job("train", self.handle, self.poison),
                clock=self.clock,
                telemetry=self.telemetry,
                stop=self.stop,
                **options,
            )

    def results(self) -> dict[str, float]:
        return {dict(labels)["result"]: n for (name, labels), n in self.telemetry.values.items() if name == JOBS.name}


async def test_a_job_whose_handler_returns_is_gone():
    harness = Harness()
    await harness.queue.publish("train", b"a")
    await harness.run()
    assert (harness.handled, harness.results()) == ([b"a"], {"done": 1})
    assert await harness.queue.depth("train") == 0
    assert harness.telemetry.value(RUNNING, kind="train") == 0


async def test_a_process_that_is_not_ready_leaves_jobs_to_others():
    harness, now_ready = Harness(), asyncio.Event()

    async def ready() -> None:
        await now_ready.wait()

    await harness.queue.publish("train", b"a")
    running = asyncio.create_task(harness.run(ready=ready))
    await asyncio.sleep(0)
    delivery = await harness.queue.fetch("train", timedelta(seconds=1))
    assert delivery is not None
    assert not harness.handled
    await delivery.nak()
    now_ready.set()
    await running
    assert harness.handled == [b"a"]


async def test_a_failing_job_waits_longer_each_time_and_then_is_poison():
    harness, moments = Harness(), []

    async def handle(body: bytes) -> None:
        moments.append(harness.clock.monotonic())
        raise ValueError("broken")

    harness.handle = handle
    await harness.queue.publish("train", b"a")
    await harness.run()
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert len(moments) == MAX_DELIVERIES
    assert all(pause >= delay_after(n + 1).total_seconds() for n, pause in enumerate(pauses))
    assert harness.poisoned == [b"a"]
    assert harness.results() == {"failed": MAX_DELIVERIES, "poisoned": 1}
    assert await harness.queue.depth("train") == 0


async def test_an_outage_however_long_never_makes_a_job_poison():
    harness, attempts = Harness(), []

    async def handle(body: bytes) -> None:
        attempts.append(body)
        if len(attempts) <= 4 * MAX_DELIVERIES:
            raise Unavailable(what="the store", problem="no route")
        harness.stop.set()

    harness.handle = handle
    await harness.queue.publish("train", b"a")
    await harness.run()
    assert harness.results() == {"retried": 4 * MAX_DELIVERIES, "done": 1}
    assert harness.poisoned == []
    assert await harness.queue.depth("train") == 0


async def test_an_outage_of_the_queue_too_does_not_make_a_job_poison():
    harness, attempts, publish = Harness(), [], MemoryQueue.publish
    failures = iter([Unavailable(what="NATS", problem="no route")])

    async def published(kind: str, body: bytes, dedup_id: str = "") -> None:
        if attempts and (failure := next(failures, None)):
            raise failure
        await publish(harness.queue, kind, body, dedup_id)

    harness.queue.publish = published

    async def handle(body: bytes) -> None:
        attempts.append(body)
        if len(attempts) <= MAX_DELIVERIES:
            raise Unavailable(what="the store", problem="no route")
        harness.stop.set()

    harness.handle = handle
    await harness.queue.publish("train", b"a")
    await harness.run()
    assert harness.results() == {"retried": MAX_DELIVERIES - 1, "unsettled": 1, "done": 1}
    assert harness.poisoned == []


async def test_a_job_whose_record_another_worker_has_leased_is_left_to_that_worker():
    harness = Harness()

    async def handle(body: bytes) -> None:
        harness.stop.set()
        raise LeaseLost(name="models/m", epoch=3)

    harness.handle = handle
    await harness.queue.publish("train", b"a")
    await harness.run()
    assert harness.results() == {"superseded": 1}
    assert await harness.queue.depth("train") == 0


async def test_a_long_job_stays_with_its_worker_even_while_heartbeats_fail():
    harness = Harness()

    async def handle(body: bytes) -> None:
        harness.handled.append(body)
        await harness.clock.sleep(5)
        for _ in range(50):
            await asyncio.sleep(0)
        assert await harness.queue.fetch("train", timedelta(0)) is None
        harness.stop.set()

    harness.handle = handle
    await harness.queue.publish("train", b"a")
    fetch, extended = harness.queue.fetch, []

    async def fetch_flaky(kind, wait):
        delivery = await fetch(kind, wait)
        if delivery:
            extend = delivery.extend

            async def flaky() -> None:
                extended.append(harness.clock.monotonic())
                if len(extended) % 2 == 0:
                    raise Unavailable(what="nats", problem="away")
                await extend()

            delivery.extend = flaky
        return delivery

    harness.queue.fetch = fetch_flaky
    await harness.run()
    assert len(extended) > 3
    assert (harness.handled, harness.results()) == ([b"a"], {"done": 1})


async def test_a_stop_lets_the_job_in_flight_finish():
    harness = Harness(SystemClock())  # a real clock: the grace does not pass during the test

    async def handle(body: bytes) -> None:
        harness.stop.set()
        for _ in range(100):
            await asyncio.sleep(0)
        harness.handled.append(body)

    harness.handle = handle
    await harness.queue.publish("train", b"a")
    await harness.queue.publish("train", b"b")
    await harness.run()
    assert harness.handled == [b"a"]
    assert await harness.queue.depth("train") == 1


async def test_a_job_that_outlasts_the_grace_is_cancelled_and_free_at_once():
    harness, cancelled = Harness(), []

    async def handle(body: bytes) -> None:
        harness.stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(body)

    harness.handle = handle
    await harness.queue.publish("train", b"a")
    await harness.run()
    assert (cancelled, harness.results()) == ([b"a"], {"released": 1})
    again = await harness.queue.fetch("train", timedelta(0))
    assert again is not None
    assert again.deliveries == 2


async def test_jobs_run_concurrently_up_to_the_limit():
    harness, together = Harness(SystemClock()), []
    both = asyncio.Barrier(2)

    async def handle(body: bytes) -> None:
        async with both:
            together.append(body)
        harness.stop.set()

    harness.handle = handle
    await harness.queue.publish("train", b"a")
    await harness.queue.publish("train", b"b")
    await harness.run(concurrency=2)
    assert sorted(together) == [b"a", b"b"]


async def test_a_queue_that_cannot_settle_does_not_end_the_worker():
    harness = Harness()
    await harness.queue.publish("train", b"a")

    fetch = harness.queue.fetch

    async def broken() -> None:
        raise Unavailable(what="nats", problem="away")

    async def fetch_broken(kind, wait):
        delivery = await fetch(kind, wait)
        if delivery:
            delivery.ack = broken
        return delivery

    harness.queue.fetch = fetch_broken
    await harness.run()
    assert harness.results() == {"unsettled": 1}
