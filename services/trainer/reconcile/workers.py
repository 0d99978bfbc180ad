"""How many workers have nothing to do, so that a model may use more than one of them."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from services.kit.clock import Clock
from services.kit.errors import Unavailable
from services.kit.queue import Queue
from services.trainer.reconcile import jobs
from services.trainer.store import Store

BLINK_SECONDS = 3.0  # a worker that is neither busy nor waiting for less time is still there: it goes from job to job


@dataclass(slots=True)
class _Level:
    """That there are at least so many workers: since when, and since when that is in doubt."""

    since: float
    low: float | None = None


class Workers:
    """Counts the workers: those that wait for a job, and those with a live lease.

    Law: one worker never counts as two. The lease of a worker that died stays live for a while, and its successor
    may already wait for a job; so only workers that are there for longer than a lease lasts are counted.
    """

    def __init__(self, store: Store, queue: Queue, clock: Clock, lease_seconds: float) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._levels: list[_Level] = []
        self._claimed = 0

    async def count(self) -> None:
        """Counts them now; to be called at least every second. During an outage of the queue nothing changes."""
        try:
            waiting = await self._queue.waiting(jobs.KIND)
        except Unavailable:
            return
        now, moment = self._clock.now(), self._clock.monotonic()
        present = waiting + sum(work.lease.is_live(now) for work in self._store.training_works())
        self._levels = [level for level in self._levels if level.low is None or moment - level.low < BLINK_SECONDS]
        self._levels += [_Level(moment) for _ in range(len(self._levels), present)]
        for number, level in enumerate(self._levels):
            level.low = None if number < present else moment if level.low is None else level.low

    @property
    def free(self) -> int:
        """How many workers are neither busy nor needed by work that waits; 0 unless there are several workers."""
        moment = self._clock.monotonic()
        steady = sum(moment - level.since > self._lease_seconds for level in self._levels)
        if steady < 2:
            return 0  # one worker takes a model's trials in turn
        return max(0, steady - self._claimed - sum(not work.ended for work in self._store.training_works()))

    @contextmanager
    def claimed(self) -> Generator[None]:
        """One worker less is free while a trial is being created for it."""
        self._claimed += 1
        try:
            yield
        finally:
            self._claimed -= 1
