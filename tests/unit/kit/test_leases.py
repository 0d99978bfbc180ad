"""At any moment at most one holder may write, and every past holder is fenced by its epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.kit.errors import LeaseLost
from services.kit.leases import Lease

TTL = timedelta(seconds=30)
START = datetime(2026, 1, 1, tzinfo=UTC)
workers = st.sampled_from(["w1", "w2", "w3"])


class Leases(RuleBasedStateMachine):
    """Workers take, renew, release and lose the lease of one record, as they do by compare-and-set."""

    def __init__(self) -> None:
        super().__init__()
        self.lease = Lease()
        self.now = START
        self.epochs: dict[str, int] = {}  # what each worker believes it holds
        self.given: list[int] = []

    def fenced(self, worker: str) -> bool:
        """Whether the record says that the worker must not write any more."""
        return self.epochs.get(worker) != self.lease.epoch or self.lease.holder != worker

    @rule(seconds=st.integers(0, 45))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(worker=workers)
    def take(self, worker: str) -> None:
        before = self.lease
        if before.is_live(self.now) and before.holder != worker:
            with pytest.raises(LeaseLost):
                before.taken(worker, self.now, TTL)
            return
        self.lease = before.taken(worker, self.now, TTL)
        assert self.lease.epoch == before.epoch + 1
        assert self.lease.is_live(self.now)
        self.epochs[worker] = self.lease.epoch
        self.given.append(self.lease.epoch)

    @rule(worker=workers)
    def renew(self, worker: str) -> None:
        if not self.fenced(worker):
            self.lease = self.lease.renewed(self.now, TTL)
            assert self.lease.is_live(self.now + TTL - timedelta(seconds=1))
            assert not self.lease.is_live(self.now + TTL)

    @rule(worker=workers)
    def release(self, worker: str) -> None:
        if not self.fenced(worker):
            self.lease = self.lease.released()
            assert not self.lease.is_live(self.now)
            assert self.fenced(worker)

    @invariant()
    def at_most_one_worker_may_write(self) -> None:
        assert sum(not self.fenced(worker) for worker in ("w1", "w2", "w3")) <= 1

    @invariant()
    def no_epoch_was_issued_twice(self) -> None:
        assert self.given == sorted(set(self.given))


TestLeases = Leases.TestCase


def test_a_lease_ends_exactly_at_its_expiry() -> None:
    lease = Lease().taken("w1", START, TTL)
    assert lease.is_live(START + TTL - timedelta(microseconds=1))
    assert not lease.is_live(START + TTL)


def test_a_worker_that_returns_under_the_same_name_gets_a_new_epoch() -> None:
    assert Lease().taken("w1", START, TTL).taken("w1", START, TTL).epoch == 2
