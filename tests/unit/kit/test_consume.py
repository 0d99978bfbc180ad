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


class Bench:
    """A worker on an in-memory queue, whose clock jumps whenever somebody waits."""

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
        async with asyncio.timeout(10):
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
    bench = Bench()
    await bench.queue.publish("train", b"a")
    await bench.run()
    assert (bench.handled, bench.results()) == ([b"a"], {"done": 1})
    assert await bench.queue.depth("train") == 0
    assert bench.telemetry.value(RUNNING, kind="train") == 0


async def test_a_job_that_fails_rests_longer_each_time_and_then_is_poison():
    bench, moments = Bench(), []

    async def handle(body: bytes) -> None:
        moments.append(bench.clock.monotonic())
        raise ValueError("broken")

    bench.handle = handle
    await bench.queue.publish("train", b"a")
    await bench.run()
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert len(moments) == MAX_DELIVERIES
    assert all(pause >= delay_after(n + 1).total_seconds() for n, pause in enumerate(pauses))
    assert bench.poisoned == [b"a"]
    assert bench.results() == {"failed": MAX_DELIVERIES, "poisoned": 1}
    assert await bench.queue.depth("train") == 0


async def test_an_outage_however_long_never_makes_a_job_poison():
    bench, attempts = Bench(), []

    async def handle(body: bytes) -> None:
        attempts.append(body)
        if len(attempts) <= 4 * MAX_DELIVERIES:
            raise Unavailable(what="the store", problem="no route")
        bench.stop.set()

    bench.handle = handle
    await bench.queue.publish("train", b"a")
    await bench.run()
    assert bench.results() == {"retried": 4 * MAX_DELIVERIES, "done": 1}
    assert bench.poisoned == []
    assert await bench.queue.depth("train") == 0


async def test_a_job_whose_lease_somebody_else_holds_is_left_to_them():
    bench = Bench()

    async def handle(body: bytes) -> None:
        bench.stop.set()
        raise LeaseLost(name="models/m", epoch=3)

    bench.handle = handle
    await bench.queue.publish("train", b"a")
    await bench.run()
    assert bench.results() == {"superseded": 1}
    assert await bench.queue.depth("train") == 0


async def test_a_long_job_stays_with_its_worker_even_while_heartbeats_fail():
    bench = Bench()

    async def handle(body: bytes) -> None:
        bench.handled.append(body)
        await bench.clock.sleep(5)
        for _ in range(50):
            await asyncio.sleep(0)
        assert await bench.queue.fetch("train", timedelta(0)) is None
        bench.stop.set()

    bench.handle = handle
    await bench.queue.publish("train", b"a")
    fetch, extended = bench.queue.fetch, []

    async def fetch_flaky(kind, wait):
        delivery = await fetch(kind, wait)
        if delivery:
            extend = delivery.extend

            async def flaky() -> None:
                extended.append(bench.clock.monotonic())
                if len(extended) % 2 == 0:
                    raise Unavailable(what="nats", problem="away")
                await extend()

            delivery.extend = flaky
        return delivery

    bench.queue.fetch = fetch_flaky
    await bench.run()
    assert len(extended) > 3
    assert (bench.handled, bench.results()) == ([b"a"], {"done": 1})


async def test_a_stop_lets_the_job_in_hand_finish():
    bench = Bench(SystemClock())  # on which the grace does not pass

    async def handle(body: bytes) -> None:
        bench.stop.set()
        for _ in range(100):
            await asyncio.sleep(0)
        bench.handled.append(body)

    bench.handle = handle
    await bench.queue.publish("train", b"a")
    await bench.queue.publish("train", b"b")
    await bench.run()
    assert bench.handled == [b"a"]
    assert await bench.queue.depth("train") == 1


async def test_a_job_that_outlasts_the_grace_is_cancelled_and_free_at_once():
    bench, cancelled = Bench(), []

    async def handle(body: bytes) -> None:
        bench.stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(body)

    bench.handle = handle
    await bench.queue.publish("train", b"a")
    await bench.run()
    assert (cancelled, bench.results()) == ([b"a"], {"released": 1})
    again = await bench.queue.fetch("train", timedelta(0))
    assert again is not None
    assert again.deliveries == 2


async def test_jobs_run_side_by_side_up_to_the_concurrency():
    bench, together = Bench(SystemClock()), []
    both = asyncio.Barrier(2)

    async def handle(body: bytes) -> None:
        async with both:
            together.append(body)
        bench.stop.set()

    bench.handle = handle
    await bench.queue.publish("train", b"a")
    await bench.queue.publish("train", b"b")
    await bench.run(concurrency=2)
    assert sorted(together) == [b"a", b"b"]


async def test_a_queue_that_cannot_settle_does_not_end_the_worker():
    bench = Bench()
    await bench.queue.publish("train", b"a")

    fetch = bench.queue.fetch

    async def broken() -> None:
        raise Unavailable(what="nats", problem="away")

    async def fetch_broken(kind, wait):
        delivery = await fetch(kind, wait)
        if delivery:
            delivery.ack = broken
        return delivery

    bench.queue.fetch = fetch_broken
    await bench.run()
    assert bench.results() == {"unsettled": 1}
