"""Work and its ledger: whatever happens to workers, only commits are charged, once, and never beyond the allowance."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.kit import codec
from services.kit.errors import Failure, LeaseLost
from services.kit.records import MAX_RECORD_BYTES
from services.trainer.ledger import MAX_SEGMENTS, ZERO
from services.trainer.work import MAX_ATTEMPTS_WITHOUT_COMMIT, Work, WorkState

START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(seconds=15)
ERROR = Failure(9, "diverged", "It diverged.")


SECOND = timedelta(seconds=1)


def work(allowance: timedelta = 100 * SECOND) -> Work:
    return Work(create_time=START, allowance=allowance)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class WorkMachine(RuleBasedStateMachine):
    """A worker, its rivals and a caller, in any order and at any time."""

    @initialize(allowance=st.timedeltas(0.1 * SECOND, 1000 * SECOND))
    def begin(self, allowance: timedelta) -> None:
        self.work = work(allowance)
        self.now = START
        self.began = START
        self.checkpoints = 0
        self.ended: Work | None = None
        self.deaths_without_commit = 0
        self.reached = ZERO

    @property
    def used(self) -> timedelta:
        return self.now - self.began

    def running(self) -> bool:
        return self.work.state is WorkState.RUNNING

    @rule(span=st.timedeltas(ZERO, 40 * SECOND))
    def time_passes(self, span: timedelta) -> None:
        self.now += span

    @rule(holder=st.sampled_from(["a", "b"]))
    def take(self, holder: str) -> None:
        if self.work.ended:
            return
        if self.work.lease.is_live(self.now) and self.work.lease.holder != holder:
            with pytest.raises(LeaseLost):
                self.work.taken("t", holder, self.now, TTL)
            return
        before = self.work
        self.work = self.work.taken("t", holder, self.now, TTL)
        if not self.work.ended:
            self.began = self.now
            assert self.work.lease.epoch > before.lease.epoch  # fences the previous holder
        else:
            assert before.attempts_without_commit == MAX_ATTEMPTS_WITHOUT_COMMIT

    @precondition(running)
    @rule(progress=st.floats(0, 1.5))
    def beat(self, progress: float) -> None:
        before = self.work.progress
        self.work = self.work.beaten(self.now, TTL, used=self.used, progress=progress, phase="fit")
        assert before <= self.work.progress <= 1

    @precondition(running)
    @rule(repeat=st.integers(1, 3), late=st.timedeltas(ZERO, 5 * SECOND))
    def commit(self, repeat: int, late: timedelta) -> None:
        self.checkpoints += 1
        used = max(ZERO, self.used - late)
        self.work = once = self.work.committed(self.now, TTL, used=used, checkpoint_key=f"c{self.checkpoints}/")
        for _ in range(repeat):
            self.work = self.work.committed(self.now, TTL, used=self.used, checkpoint_key=f"c{self.checkpoints}/")
        assert self.work == once

    @precondition(running)
    @rule()
    def release(self) -> None:
        self.work = self.work.released(self.now)
        assert self.work.is_due(self.now)

    @precondition(running)
    @rule()
    def lose_the_child(self) -> None:
        self.work = self.work.lost(self.now, "t", "killed")

    @precondition(running)
    @rule(how=st.sampled_from(["succeed", "fail", "stop"]), chance=st.integers(0, 9))
    def end(self, how: str, chance: int) -> None:
        if chance:  # most runs go on
            return
        match how:
            case "succeed":
                self.work = self.work.succeeded(self.now, self.used)
            case "fail":
                self.work = self.work.failed(self.now, ERROR)
            case _:
                self.work = self.work.stopped(self.now)
                assert self.work.charged == self.work.allowance

    @precondition(lambda self: not self.work.ended)
    @rule(chance=st.integers(0, 9))
    def cancel(self, chance: int) -> None:
        if not chance:
            self.work = self.work.cancelled(self.now)

    @invariant()
    def what_callers_see_of_it_never_goes_backwards(self) -> None:
        assert self.reached <= self.work.reached <= self.work.allowance
        self.reached = self.work.reached

    @invariant()
    def every_attempt_that_is_over_has_ended_once(self) -> None:
        if hasattr(self, "work"):
            assert sum(self.work.ends.values()) == self.work.attempt - self.running()

    @invariant()
    def no_more_is_charged_than_was_allowed(self) -> None:
        if not hasattr(self, "work"):
            return
        assert self.work.charged + self.work.pending <= self.work.allowance

    @invariant()
    def the_ledger_adds_up_to_what_was_charged(self) -> None:
        if not hasattr(self, "work"):
            return
        charged = sum((line.duration for line in self.work.segments if line.charged), ZERO)
        assert charged == self.work.charged == self.work.tally.charged
        assert len(self.work.segments) <= MAX_SEGMENTS

    @invariant()
    def the_stored_record_is_the_same_work(self) -> None:
        if hasattr(self, "work"):
            assert codec.decode(codec.encode(self.work), Work) == self.work

    @invariant()
    def an_end_is_final(self) -> None:
        if not hasattr(self, "work") or not self.work.ended:
            return
        if self.ended is None:
            self.ended = self.work
        assert self.work == self.ended
        assert not self.work.is_due(self.now + timedelta(days=1))
        assert not self.work.lease.holder  # nobody may write
        for move in (
            lambda: self.work.released(self.now),
            lambda: self.work.cancelled(self.now),
            lambda: self.work.stopped(self.now),
            lambda: self.work.succeeded(self.now, SECOND),
            lambda: self.work.failed(self.now, ERROR),
        ):
            with pytest.raises(ValueError, match="does not go from"):
                move()


WorkMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_a_ledger_keeps_its_law_on_every_walk = WorkMachine.TestCase


def test_work_that_kills_its_workers_is_given_up_after_five_attempts_without_progress() -> None:
    at = work()
    for attempt in range(MAX_ATTEMPTS_WITHOUT_COMMIT):
        at = at.taken("models/m/trials/t0", f"w{attempt}", after(20 * attempt), TTL)
        assert at.state is WorkState.RUNNING
    at = at.taken("models/m/trials/t0", "w9", after(200), TTL)
    assert at.state is WorkState.FAILED
    assert at.error is not None
    assert "5 attempts" in at.error.message
    assert at.charged == ZERO


def test_work_whose_child_dies_five_times_fails_with_the_last_problem() -> None:
    at = work()
    for attempt in range(MAX_ATTEMPTS_WITHOUT_COMMIT):
        at = at.taken("t", "w", after(attempt), TTL).lost(after(attempt + 0.5), "t", "killed by signal 9")
    assert at.state is WorkState.FAILED
    assert at.error is not None
    assert "killed by signal 9" in at.error.message


def test_progress_between_deaths_keeps_work_alive() -> None:
    at = work()
    for attempt in range(20):
        at = at.taken("t", "w", after(20 * attempt), TTL)
        at = at.committed(after(20 * attempt + 1), TTL, used=SECOND, checkpoint_key=f"{attempt}/")
        at = at.lost(after(20 * attempt + 2), "t", "killed")
    assert at.state is WorkState.QUEUED
    assert at.charged == 20 * SECOND


def test_work_that_is_given_back_is_not_poison() -> None:
    at = work()
    for attempt in range(50):
        at = at.taken("t", "w", after(attempt), TTL).released(after(attempt + 0.5))
    assert at.state is WorkState.QUEUED
    assert at.taken("t", "w", after(60), TTL).state is WorkState.RUNNING


def test_what_a_dead_worker_did_since_its_last_commit_is_recorded_as_uncharged() -> None:
    at = work().taken("t", "a", START, TTL)
    at = at.committed(after(5), TTL, used=5 * SECOND, checkpoint_key="c1/")
    at = at.beaten(after(9), TTL, used=9 * SECOND, progress=0.2, phase="fit")
    at = at.taken("t", "b", after(60), TTL)
    assert [(s.attempt, s.duration, s.charged, s.reason) for s in at.segments] == [
        (1, 5 * SECOND, True, "checkpoint"),
        (1, 4 * SECOND, False, "workerLost"),
    ]
    assert at.remaining == 95 * SECOND


def test_a_beat_beyond_the_commit_that_follows_it_stays_pending() -> None:
    at = work().taken("t", "a", START, TTL)
    at = at.beaten(after(10), TTL, used=10 * SECOND, progress=0.1, phase="fit")
    at = at.committed(after(10), TTL, used=8 * SECOND, checkpoint_key="c1/")
    assert (at.charged, at.pending) == (8 * SECOND, 2 * SECOND)


def test_a_caller_who_cancels_pays_for_a_live_worker_and_not_for_a_dead_one() -> None:
    at = work().taken("t", "a", START, TTL).beaten(after(4), TTL, used=4 * SECOND, progress=0.1, phase="fit")
    assert at.cancelled(after(5)).charged == 4 * SECOND
    assert at.cancelled(after(60)).charged == ZERO


def test_a_named_failure_charges_only_what_was_committed() -> None:
    at = work().taken("t", "a", START, TTL).committed(after(3), TTL, used=3 * SECOND, checkpoint_key="c/")
    at = at.beaten(after(5), TTL, used=5 * SECOND, progress=0.1, phase="fit").failed(after(6), ERROR)
    assert (at.charged, at.error) == (3 * SECOND, ERROR)
    assert at.segments[-1].charged is False


@pytest.mark.parametrize("commits_per_attempt", [1, 7, 10_000])
def test_a_record_stays_small_after_any_number_of_commits_and_attempts(commits_per_attempt: int) -> None:
    at = work(1e6 * SECOND)
    began = 0
    for step in range(10_000):
        if step % commits_per_attempt == 0:
            at = at.taken("t", "w", after(step), TTL)
            began = step
        at = at.beaten(after(step), TTL, used=(step - began + 1.5) * SECOND, progress=0.1, phase="fit")
        at = at.committed(after(step), TTL, used=(step - began + 1) * SECOND, checkpoint_key=f"models/m/uid/c{step}/")
    assert len(codec.encode(at)) < MAX_RECORD_BYTES / 2
    assert at.charged == 10_000 * SECOND
    assert len(at.segments) <= MAX_SEGMENTS


def test_the_stored_name_of_attempts_without_commit_stays() -> None:
    stored = codec.encode(work()).replace(b'"barren_attempts":0', b'"barren_attempts":3')
    assert codec.decode(stored, Work).attempts_without_commit == 3
