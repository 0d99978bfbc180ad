"""Attempts, compute, waits and dead letters are counted from the records, once, whatever replicas and writes do."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.kit import callers, tracing
from services.kit.callers import Caller
from services.kit.clock import ManualClock
from services.kit.consume import DEAD_LETTERS
from services.kit.errors import EtagMismatch, Failure, Unavailable
from services.kit.memory import MemoryRecords
from services.kit.telemetry import MemoryTelemetry, Metric
from services.trainer import metrics
from services.trainer.labels import MAX_NAMED, OTHER
from services.trainer.origin import Origin
from services.trainer.reconcile.counts import FIRST_SCRAPE_SECONDS, Counts
from services.trainer.store import Store
from services.trainer.tally import AttemptResult
from services.trainer.work import MAX_ATTEMPTS_WITHOUT_COMMIT, Work
from tests.unit.trainer.reconcile.test_gauges import trial
from tests.unit.trainer.support import START, TTL, running

NAME = "models/m/trials/t000"
ERROR = Failure(9, "diverged", "It diverged.")
HOUR = timedelta(hours=1)
Move = Callable[[Work], Work]


class FaultyRecords(MemoryRecords):
    """Does not answer the next writes, each of which may or may not succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[bool] = []

    def _write(self, key: str, value: bytes | None) -> int:
        if not self.faults:
            return super()._write(key, value)
        if self.faults.pop(0):
            super()._write(key, value)
        raise Unavailable(what="the records", problem="no answer")


class World:
    """One trial, and replicas of the api, each with its own counters."""

    def __init__(self, store: Store, records: FaultyRecords, replicas: int = 1) -> None:
        self.store = store
        self.records = records
        self.clock = ManualClock(START + timedelta(minutes=5))
        self.telemetry = [MemoryTelemetry() for _ in range(replicas)]
        self.replicas = [self.replica(telemetry) for telemetry in self.telemetry]

    def replica(self, telemetry: MemoryTelemetry) -> Counts:
        return Counts(self.store, self.clock, telemetry)

    async def restart(self) -> None:
        """Replaces the first replica by a new process with counters at 0."""
        self.telemetry.append(MemoryTelemetry())
        self.replicas[0] = self.replica(self.telemetry[-1])

    async def do(self, *moves: Move) -> None:
        for move in moves:
            await self.store.trials.change(
                NAME, lambda record, move=move: record.with_work(move(record.work), self.clock.now())
            )

    async def reconcile(self) -> None:
        for replica in self.replicas:
            await replica.reconcile()

    def sum(self, **labels: str) -> float:
        """Attempts with this result, over all replicas so far."""
        return sum(each.value(metrics.ATTEMPTS, kind="trial", **labels) for each in self.telemetry)

    def seconds(self, charged: str) -> float:
        return sum(each.value(metrics.COMPUTE_SECONDS, charged=charged) for each in self.telemetry)

    @property
    def waits(self) -> list[float]:
        key = (metrics.WAIT_SECONDS.name, (("kind", "trial"),))
        return [seconds for each in self.telemetry for seconds in each.observed.get(key, ())]

    @property
    def dead(self) -> float:
        return sum(each.value(DEAD_LETTERS, kind="trial") for each in self.telemetry)


@asynccontextmanager
async def world(replicas: int = 1) -> AsyncGenerator[World]:
    records = FaultyRecords()
    async with running(records) as store:
        await store.trials.create(trial(NAME, Work(create_time=START, allowance=timedelta(seconds=600.0))))
        yield World(store, records, replicas)


def taken(minutes: float = 1, holder: str = "w1") -> Move:
    return lambda work: work.taken(NAME, holder, START + timedelta(minutes=minutes), TTL)


def beaten(seconds: float) -> Move:
    return lambda work: work.beaten(START + HOUR, TTL, used=timedelta(seconds=seconds), progress=0.5, phase="fit")


def released(work: Work) -> Work:
    return work.released(START + HOUR)


def lost(work: Work) -> Work:
    return work.lost(START + HOUR, NAME, "killed")


def succeeded(work: Work) -> Work:
    return work.succeeded(START + HOUR, timedelta(seconds=12.5))


ENDS: dict[str, Move] = {
    "succeeded": succeeded,
    "failed": lambda work: work.failed(START + HOUR, ERROR),
    "stopped": lambda work: work.stopped(START + HOUR),
    "cancelled": lambda work: work.cancelled(START + timedelta(minutes=1)),
    "released": released,
    "died": lost,
    "hung": lambda work: work.lost(START + HOUR, NAME, "silent", AttemptResult.HUNG),
    "lease_lost": lambda work: work.taken(NAME, "w2", START + HOUR, TTL),
}


@pytest.mark.parametrize("result", ENDS)
async def test_an_attempt_is_counted_by_its_result(result: str) -> None:
    async with world() as at:
        await at.do(taken(), ENDS[result])
        await at.reconcile()
        counted = {name: at.sum(result=name) for name in ENDS}
        assert counted == dict.fromkeys(ENDS, 0) | {result: 1}


def test_the_metric_has_a_series_for_every_result() -> None:
    assert set(metrics.ATTEMPTS.values[1]) == set(ENDS)


async def test_compute_counts_as_charged_or_not_and_the_wait_for_the_first_attempt_once() -> None:
    async with world() as at:
        await at.do(taken(2), beaten(3.0))
        await at.reconcile()
        assert at.waits == [120.0]
        await at.do(released, taken(3), succeeded)
        await at.reconcile()
        assert (at.seconds("true"), at.seconds("false")) == (12.5, 3.0)
        assert at.waits == [120.0]


async def test_compute_counts_for_whoever_asked_from_0_on_and_for_the_first_fifty_by_name() -> None:
    def asked_by(caller: str) -> Move:
        return lambda work: replace(work, origin=Origin(caller=caller))

    async with world() as at:
        await at.do(asked_by("key:ann"))
        await at.reconcile()
        (telemetry,) = at.telemetry
        assert any(name == metrics.CALLER_COMPUTE_SECONDS.name for name, _ in telemetry.values), "a rate needs its 0"
        await at.do(taken(), succeeded)
        await at.reconcile()
        assert telemetry.value(metrics.CALLER_COMPUTE_SECONDS, caller="key:ann") == 12.5
        labels = [at.replicas[0]._label(f"key:{number}") for number in range(MAX_NAMED)]
        assert labels == [*(f"key:{number}" for number in range(MAX_NAMED - 1)), OTHER]


def test_work_remembers_the_caller_and_the_trace_of_its_call() -> None:
    assert Origin.current() == Origin()
    token = callers.current.set(Caller("ann", frozenset()))
    try:
        with tracing.within(tracing.TraceContext("00-a-b-01")):
            assert Origin.current() == Origin(traceparent="00-a-b-01", caller="key:ann")
    finally:
        callers.current.reset(token)


async def test_another_pass_counts_nothing_twice_and_writes_nothing() -> None:
    async with world(replicas=2) as at:
        await at.do(taken(), succeeded)
        await at.reconcile()
        before = (await at.store.trials.get(NAME)).revision
        for _ in range(3):
            await at.reconcile()
        assert at.sum(result="succeeded") == 1
        assert (await at.store.trials.get(NAME)).revision == before


async def test_two_replicas_whose_views_both_show_an_end_count_it_once() -> None:
    async with world(replicas=2) as at:
        await at.do(taken(), succeeded)
        await asyncio.gather(*(replica.reconcile() for replica in at.replicas))
        assert at.sum(result="succeeded") == 1
        assert at.seconds("true") == 12.5


async def test_the_next_replica_counts_what_ended_while_none_ran_and_nothing_twice() -> None:
    async with world() as at:
        await at.do(taken(), lost)
        await at.reconcile()
        await at.do(taken(2), lost, taken(3), succeeded)
        await at.restart()
        await at.reconcile()
        assert at.telemetry[-1].value(metrics.ATTEMPTS, kind="trial", result="died") == 1
        assert (at.sum(result="died"), at.sum(result="succeeded")) == (2, 1)


@pytest.mark.parametrize("happened", [True, False])
async def test_a_count_whose_write_gets_no_answer_is_neither_lost_nor_doubled(happened: bool) -> None:
    async with world(replicas=2) as at:
        await at.do(taken(), lost)
        at.records.faults = [happened]
        await at.replicas[0].reconcile()
        assert at.sum(result="died") == 0
        await at.replicas[1].reconcile()
        await at.replicas[0].reconcile()
        await at.reconcile()
        assert at.sum(result="died") == 1


async def test_work_that_is_given_up_is_one_dead_letter() -> None:
    async with world(replicas=2) as at:
        for number in range(MAX_ATTEMPTS_WITHOUT_COMMIT):
            await at.do(taken(number))
        await at.do(lost)
        await at.reconcile()
        await at.reconcile()
        assert at.dead == 1
        assert at.sum(result="lease_lost") == MAX_ATTEMPTS_WITHOUT_COMMIT - 1
        assert at.sum(result="died") == 1


async def test_the_deleting_replica_counts_what_was_not_counted_yet() -> None:
    async with world(replicas=2) as at:
        await at.do(taken(), succeeded)
        await at.replicas[0].delete(at.store.trials, NAME)
        await at.reconcile()
        assert at.sum(result="succeeded") == 1


async def test_a_running_attempt_whose_record_is_deleted_counts_as_cancelled() -> None:
    async with world() as at:
        await at.do(taken(5), beaten(3.0))
        await at.replicas[0].delete(at.store.trials, NAME)
        assert at.sum(result="cancelled") == 1


async def test_a_deletion_of_another_version_is_refused_and_counts_nothing() -> None:
    async with world() as at:
        await at.do(taken(), succeeded)
        with pytest.raises(EtagMismatch):
            await at.replicas[0].delete(at.store.trials, NAME, "1")
        assert at.sum(result="succeeded") == 0
        await at.reconcile()
        assert at.sum(result="succeeded") == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["died", "released", "look 0", "look 1", "restart", "lose 1", "lose 0"]), max_size=25))
async def test_whatever_happens_each_attempt_is_counted_once(steps: list[str]) -> None:
    """Processes end only between passes here: what a process added after its last scrape would be lost."""
    async with world(replicas=2) as at:
        truth = Counter[str]()
        for step in steps:
            verb, _, argument = step.partition(" ")
            if verb == "look":
                await at.replicas[int(argument)].reconcile()
            elif verb == "lose":
                at.records.faults = [argument == "1"]
                await at.replicas[0].reconcile()
                at.records.faults = []
                await at.replicas[0].reconcile()  # it stays alive
            elif verb == "restart":
                await at.restart()
            else:
                await at.do(taken(), ENDS[step])
                truth[step] += 1
                if truth["died"] == MAX_ATTEMPTS_WITHOUT_COMMIT:
                    break
        await at.reconcile()
        assert {name: at.sum(result=name) for name in ENDS} == dict.fromkeys(ENDS, 0) | truth


async def test_a_process_counts_nothing_before_its_counters_are_scraped_at_0() -> None:
    async with world() as at:
        await at.do(taken(), succeeded)
        began, times, counted = at.clock.monotonic(), list[float](), asyncio.Event()

        class Telemetry(MemoryTelemetry):
            def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
                times.append(at.clock.monotonic() - began)
                counted.set()

        counts = asyncio.create_task(at.replica(Telemetry()).keep_going())
        await counted.wait()
        counts.cancel()
        assert FIRST_SCRAPE_SECONDS <= times[0] < FIRST_SCRAPE_SECONDS + 10
