"""How many workers there are and how many have nothing to do, so that a model may use more than one of them."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from services.kit.clock import Clock
from services.kit.errors import Unavailable
from services.kit.queue import Queue
from services.trainer.reconcile import jobs
from services.trainer.store import Store

BLINK_SECONDS = 3.0  # a worker that is neither busy nor waiting for less time is still there: it goes from job to job


@dataclass(frozen=True, slots=True)
class Present:
    """The workers that are there at a moment, whatever they work on."""

    waiting: int  # for a job
    busy: int  # holders of live leases

    @classmethod
    async def counted(cls, store: Store, queue: Queue, clock: Clock) -> "Present":
        """Counts them now; Unavailable during an outage of the queue."""
        waiting, now = await queue.waiting(jobs.KIND), clock.now()
        return cls(waiting, len({work.lease.holder for work in store.works() if work.lease.is_live(now)}))

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.busy


@dataclass(slots=True)
class _Level:
    """That there are at least so many workers: since when, and since when that is in doubt."""

    since: float
    low: float | None = None


class Workers:
    """Counts the workers repeatedly.

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
            present = (await Present.counted(self._store, self._queue, self._clock)).total
        except Unavailable:
            return
        moment = self._clock.monotonic()
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
        return max(0, steady - self._claimed - sum(not work.ended for work in self._store.works()))

    @contextmanager
    def claimed(self) -> Generator[None]:
        """One worker less is free while a trial is being created for it."""
        self._claimed += 1
        try:
            yield
        finally:
            self._claimed -= 1
