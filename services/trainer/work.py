"""Work: what trials and evaluations have in common, from the queue through attempts and segments to the end.

                 a           c (beat, commit)
      QUEUED ────────▶ RUNNING ◀─┐
        │  ▲            │  │ └───┘
        │  └── b ───────┘  ├── d ──▶ SUCCEEDED   the child delivered
        │  (released, or   ├── e ──▶ FAILED      a named failure, or too many attempts without progress
        │   taken again    ├── f ──▶ STOPPED     the allowance is used up
        │   after a death) │
        └──────────┬───────┘
                   └── g ──▶ CANCELLED

A segment is a part of one attempt that ended with a commit, and only commits are charged. What an attempt did after
its last commit is lost with it; it is recorded as uncharged, so that the ledger shows it but the budget does not pay
for it. The sum of the charged segments never exceeds the allowance. Ledger time is a timedelta, so it is whole
microseconds and sums are exact. Records hold it as ISO 8601, under the names it had as floats of seconds.

The record decides what is poison, not the queue: the coordinator announces due work again, so a job's delivery count
does not say how many workers died of it.

The write that ends an attempt also counts it in `ends`. A worker that dies writes nothing: its attempt ends as
`lease_lost` when another worker takes over.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from services.kit.errors import Failure, PoisonWork
from services.kit.leases import Lease
from services.trainer.ledger import ZERO, Reason, Segment, added, total
from services.trainer.origin import NO_ORIGIN, Origin
from services.trainer.tally import AttemptResult, Tally

MAX_ATTEMPTS_WITHOUT_COMMIT = 5


class WorkState(StrEnum):
    """Where a piece of work is in its life."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    CANCELLED = "CANCELLED"


FREE = Lease()
NOTHING = Tally()

_NEXT: dict[WorkState, frozenset[WorkState]] = {
    WorkState.QUEUED: frozenset({WorkState.RUNNING, WorkState.CANCELLED, WorkState.FAILED}),
    WorkState.RUNNING: frozenset(WorkState),
    WorkState.SUCCEEDED: frozenset(),
    WorkState.FAILED: frozenset(),
    WorkState.STOPPED: frozenset(),
    WorkState.CANCELLED: frozenset(),
}


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work and its history. Frozen: every change returns a new one."""

    create_time: datetime
    allowance: timedelta = msgspec.field(name="allowance_seconds")
    state: WorkState = WorkState.QUEUED
    lease: Lease = FREE
    attempt: int = 0
    attempts_without_commit: int = msgspec.field(name="barren_attempts", default=0)  # except those released
    segments: tuple[Segment, ...] = ()
    # Done by the current attempt since its last commit.
    pending: timedelta = msgspec.field(name="pending_seconds", default=ZERO)
    # The largest sum of charged and pending so far.
    furthest: timedelta = msgspec.field(name="furthest_seconds", default=ZERO)
    checkpoint_key: str = ""
    progress: float = 0.0
    phase: str = ""
    cancel_requested: bool = False
    error: Failure | None = None
    start_time: datetime | None = None
    queue_time: datetime | None = None  # when the last attempt gave it back; None if none has
    end_time: datetime | None = None
    ends: dict[AttemptResult, int] = {}  # attempts that ended, by result
    given_up: bool = False  # because every attempt died
    counted: Tally = NOTHING  # what the metrics have of it
    origin: Origin = NO_ORIGIN

    @property
    def ended(self) -> bool:
        """Whether it is final."""
        return not _NEXT[self.state]

    @property
    def charged(self) -> timedelta:
        """What the budget has paid so far."""
        return total(segment.duration for segment in self.segments if segment.charged)

    @property
    def reached(self) -> timedelta:
        """The furthest it has got, lost attempts included; unlike charged plus pending, this never falls."""
        return max(self.furthest, self.charged)

    @property
    def remaining(self) -> timedelta:
        """What is left of the allowance."""
        return max(ZERO, self.allowance - self.charged)

    @property
    def tally(self) -> Tally:
        """What has happened so far, for the metrics."""
        return Tally(
            started=self.start_time is not None,
            ends=self.ends,
            given_up=self.given_up,
            charged=self.charged,
            uncharged=total(segment.duration for segment in self.segments if not segment.charged),
        )

    @property
    def is_uncounted(self) -> bool:
        """Whether the first attempt has begun, or any has ended, since the work was last counted."""
        return self.ends != self.counted.ends or (not self.ended and self.tally.started != self.counted.started)

    def is_due(self, now: datetime) -> bool:
        """Whether a worker should take it: it has not ended, and there is no live lease."""
        return not self.ended and not self.lease.is_live(now)

    @property
    def due_time(self) -> datetime:
        """Since when due work has waited for a worker: since its last attempt ended, or its lease expired."""
        return self.lease.expires or self.queue_time or self.create_time

    # What a worker does.

    def taken(self, name: str, holder: str, now: datetime, ttl: timedelta) -> "Work":
        """Arrows a and b: a new attempt by `holder`; LeaseLost while another holder's lease is live.

        Arrow e instead if MAX_ATTEMPTS_WITHOUT_COMMIT workers in a row have died of it.
        """
        lease = self.lease.taken(holder, now, ttl)
        closed = self._closed(Reason.WORKER_LOST, now)
        if self.attempts_without_commit >= MAX_ATTEMPTS_WITHOUT_COMMIT:
            return closed.poisoned(now, name, "its worker died", AttemptResult.LEASE_LOST)
        return replace(
            closed,
            state=self._next(WorkState.RUNNING),
            ends=self._ends_with(AttemptResult.LEASE_LOST),
            lease=lease,
            attempt=self.attempt + 1,
            attempts_without_commit=self.attempts_without_commit + 1,
            start_time=self.start_time or now,
        )

    def beaten(self, now: datetime, ttl: timedelta, *, used: timedelta, progress: float, phase: str) -> "Work":
        """Arrow c: the holder is still running it. `used` is the time since the attempt began, here and below."""
        pending = min(self._uncharged(used), self.remaining)
        return replace(
            self,
            lease=self.lease.renewed(now, ttl),
            pending=pending,
            furthest=max(self.furthest, self.charged + pending),
            progress=max(self.progress, min(progress, 1.0)),
            phase=phase,
        )

    def committed(self, now: datetime, ttl: timedelta, *, used: timedelta, checkpoint_key: str) -> "Work":
        """Arrow c: the checkpoint is in the store, so the time up to it is charged. Idempotent."""
        if checkpoint_key == self.checkpoint_key:
            return self
        return replace(
            self._charged(self._uncharged(used), Reason.CHECKPOINT, now),
            lease=self.lease.renewed(now, ttl),
            checkpoint_key=checkpoint_key,
            attempts_without_commit=0,
        )

    def released(self, now: datetime) -> "Work":
        """Arrow b: the holder gives it back; another continues from the last commit."""
        return replace(
            self._closed(Reason.RELEASED, now),
            state=self._next(WorkState.QUEUED),
            ends=self._ends_with(AttemptResult.RELEASED),
            lease=self.lease.released(),
            queue_time=now,
            attempts_without_commit=max(0, self.attempts_without_commit - 1),
        )

    def lost(self, now: datetime, name: str, problem: str, result: AttemptResult = AttemptResult.DIED) -> "Work":
        """Arrow b after the child died or hung but its worker did not, or e after too many of these in a row."""
        closed = replace(self._closed(Reason.WORKER_LOST, now), lease=self.lease.released())
        if self.attempts_without_commit >= MAX_ATTEMPTS_WITHOUT_COMMIT:
            return closed.poisoned(now, name, problem, result)
        ends = self._ends_with(result)
        return replace(closed, state=self._next(WorkState.QUEUED), queue_time=now, ends=ends)

    def poisoned(self, now: datetime, name: str, problem: str, result: AttemptResult) -> "Work":
        """Arrow e: given up, because attempts end without progress; `result` is that of the last one."""
        error = PoisonWork(name=name, attempts=self.attempts_without_commit, last=problem)
        return replace(self, **self._end(WorkState.FAILED, now, result), error=error.failure(), given_up=True)

    def succeeded(self, now: datetime, used: timedelta) -> "Work":
        """Arrow d: the result is in the store."""
        charged = self._charged(self._uncharged(used), Reason.FINISHED, now)
        return replace(charged, **self._end(WorkState.SUCCEEDED, now, AttemptResult.SUCCEEDED), progress=1.0)

    def stopped(self, now: datetime) -> "Work":
        """Arrow f: the allowance is used up; what is left of it is charged, because the device was busy throughout."""
        charged = self._charged(self.remaining, Reason.STOPPED, now)
        return replace(charged, **self._end(WorkState.STOPPED, now, AttemptResult.STOPPED))

    def failed(self, now: datetime, error: Failure) -> "Work":
        """Arrow e: a named failure, which another attempt would repeat. What was not committed is not charged."""
        closed = self._closed(Reason.FAILED, now)
        return replace(closed, **self._end(WorkState.FAILED, now, AttemptResult.FAILED), error=error)

    def cancelled(self, now: datetime) -> "Work":
        """Arrow g: ended by the caller, who pays for what was done, unless the lease has expired."""
        if not self.lease.is_live(now):
            closed, result = self._closed(Reason.WORKER_LOST, now), AttemptResult.LEASE_LOST
        elif self.pending:
            closed = self._charged(self.pending, Reason.CANCELLED, now)
            result = AttemptResult.CANCELLED
        else:
            closed, result = self, AttemptResult.CANCELLED
        return replace(closed, **self._end(WorkState.CANCELLED, now, result))

    # Bookkeeping.

    def _end(self, state: WorkState, now: datetime, result: AttemptResult) -> dict[str, Any]:
        end = {"lease": self.lease.released(), "end_time": now, "pending": ZERO}
        return {"state": self._next(state), "ends": self._ends_with(result), **end}

    def _ends_with(self, result: AttemptResult) -> dict[AttemptResult, int]:
        """`ends` with the current attempt added, if there is one."""
        if self.state is not WorkState.RUNNING:
            return self.ends
        return {**self.ends, result: self.ends.get(result, 0) + 1}

    def _next(self, state: WorkState) -> WorkState:
        if state not in _NEXT[self.state]:
            raise ValueError(f"work does not go from {self.state} to {state}")
        return state

    def _uncharged(self, used: timedelta) -> timedelta:
        """The part of the current attempt's time that is in no segment yet."""
        return max(ZERO, used - total(s.duration for s in self.segments if s.attempt == self.attempt))

    def _charged(self, duration: timedelta, reason: Reason, now: datetime) -> "Work":
        return self._with_segment(min(duration, self.remaining), True, reason, now)

    def _closed(self, reason: Reason, now: datetime) -> "Work":
        """The work with what was done since the last commit recorded as lost."""
        return self._with_segment(self.pending, False, reason, now) if self.pending else self

    def _with_segment(self, duration: timedelta, charged: bool, reason: Reason, now: datetime) -> "Work":
        segment = Segment(attempt=self.attempt, duration=duration, charged=charged, reason=reason, end_time=now)
        pending = max(ZERO, self.pending - duration)
        return replace(self, segments=added(self.segments, segment), pending=pending)
