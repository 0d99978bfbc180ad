"""The state machine of a dataset, walked at random: no order of events breaks its invariants."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.dataset.domain import (
    TRANSITIONS,
    BoxConvention,
    Chunks,
    DatasetRecord,
    Event,
    FindingCounts,
    Phase,
    Plan,
    State,
    Stats,
)
from services.kit import codec
from services.kit.errors import LeaseLost, PoisonWork, WrongState
from services.kit.records import MAX_RECORD_BYTES
from services.vision.snapshot import AnnotationKind

START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(seconds=20)


def fresh() -> DatasetRecord:
    return DatasetRecord("datasets/d", "u", AnnotationKind.IMAGE_CLASSIFICATION, ("s3://b/k",), START, START)


class Life(RuleBasedStateMachine):
    """Applies any event that workers and callers may try; a refused one leaves the record unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.record = fresh()
        self.now = START
        self.fraction = 0.0
        self.ended: State | None = None

    def attempt(self, event: Event, changed: object) -> None:
        """Applies a change; it must be refused if and only if the table has no transition."""
        assert callable(changed)
        allowed = self.record.state in TRANSITIONS[event]
        try:
            after = changed()
        except WrongState:
            assert not allowed
            return
        assert isinstance(after, DatasetRecord)
        assert allowed
        assert after.state is TRANSITIONS[event][self.record.state]
        self.record = after

    @rule(seconds=st.integers(0, 30))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(holder=st.sampled_from(["w1", "w2"]))
    def taken(self, holder: str) -> None:
        if self.record.state is State.DELETING:
            return
        epoch, live = self.record.lease.epoch, self.record.lease.is_live(self.now)
        held_by_other = live and self.record.lease.holder != holder
        try:
            self.attempt(Event.PROGRESS, lambda: self.record.taken(holder, self.now, TTL))
        except LeaseLost:
            assert held_by_other
        else:
            assert not held_by_other or self.record.state is not State.VALIDATING
            assert self.record.lease.epoch >= epoch

    @rule(chunks=st.integers(0, 4))
    @precondition(lambda self: self.record.plan is None)
    def planned(self, chunks: int) -> None:
        plan = Plan("p", chunks, chunks * 10 + 3, 3)
        self.attempt(Event.PROGRESS, lambda: self.record.planned(plan, BoxConvention.UNKNOWN, self.now))

    @rule(number=st.integers(0, 3), images=st.integers(0, 10))
    @precondition(lambda self: self.record.plan is not None)
    def part_of_a_chunk(self, number: int, images: int) -> None:
        if self.record.plan and number < self.record.plan.chunk_count:
            chunks = self.record.chunks.moved(number, images)
            self.attempt(Event.PROGRESS, lambda: self.record.checked(chunks, self.now))

    @rule(number=st.integers(0, 3))
    @precondition(lambda self: self.record.plan is not None)
    def chunk_finished(self, number: int) -> None:
        if self.record.plan and number < self.record.plan.chunk_count:
            chunks = self.record.chunks.finished(number, 10)
            assert chunks.finished(number, 10) == chunks
            self.attempt(Event.PROGRESS, lambda: self.record.checked(chunks, self.now))

    @rule()
    @precondition(lambda self: self.record.is_checked)
    def accepted(self) -> None:
        found = "f", FindingCounts()
        self.attempt(Event.ACCEPT, lambda: self.record.accepted(Stats(), "sha256:0", "m", found, self.now))

    @rule()
    def refused(self) -> None:
        error = PoisonWork(name="d", attempts=5, last="x").failure()
        self.attempt(Event.REFUSE, lambda: self.record.refused(error, self.now))

    @rule()
    def revised(self) -> None:
        before = self.record
        self.attempt(Event.REVISE, lambda: before.revised(fresh(), self.now))
        if self.record is not before:
            kept = {one.manifest_key for one in self.record.versions}
            assert kept >= {one.manifest_key for one in before.versions} | {before.manifest_key} - {""}
            assert [one.number for one in self.record.versions] == [*range(1, self.record.version)]
            assert self.record.packs != before.packs
            self.fraction, self.ended = 0.0, None

    @rule()
    def updated(self) -> None:
        self.attempt(Event.UPDATE, lambda: self.record.updated(self.now, display_name="x"))

    @rule()
    def deletion(self) -> None:
        generation = self.record.generation
        self.attempt(Event.DELETE, lambda: self.record.deleting(self.now))
        assert self.record.deleting(self.now) is self.record
        assert self.record.generation in (generation, generation + 1)

    @invariant()
    def fields_match_the_state(self) -> None:
        record = self.record
        if record.state is State.READY:
            assert record.manifest_key
            assert record.phase is Phase.FINISHED
            assert record.fraction == 1
        if record.state is State.FAILED:
            assert record.error
        if record.state is not State.DELETING:
            assert bool(record.manifest_key) == (record.state is State.READY)
        assert 0 <= record.images_done <= record.images_total

    @invariant()
    def progress_never_decreases(self) -> None:
        assert self.record.fraction >= self.fraction
        self.fraction = self.record.fraction

    @invariant()
    def final_states_are_final(self) -> None:
        if self.ended and self.record.state is not State.DELETING:
            assert self.record.state is self.ended
        if self.record.state in (State.READY, State.FAILED):
            self.ended = self.record.state

    @invariant()
    def it_survives_encoding(self) -> None:
        assert codec.decode(codec.encode(self.record), DatasetRecord) == self.record


TestLife = Life.TestCase


def test_every_event_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(Event)
    assert not any(State.DELETING in TRANSITIONS[event] for event in Event if event is not Event.DELETE)


def test_a_refusal_names_the_states_in_which_the_event_is_possible() -> None:
    record = fresh().deleting(START)
    with pytest.raises(WrongState, match="datasets/d is DELETING; update is possible in VALIDATING, READY, FAILED"):
        record.updated(START, display_name="x")


def test_a_million_images_in_progress_fit_in_a_record() -> None:
    chunks = Chunks()
    for number in range(1000):
        chunks = chunks.finished(number, 1000) if number % 2 else chunks.moved(number, 500)
    plan = Plan("datasets/d/u/plan/1", 1000, 1_000_000, 0)
    record = replace(fresh(), plan=plan, chunks=chunks)
    assert record.images_done == 750_000
    assert chunks.missing(1000) == list(range(0, 1000, 2))
    assert len(codec.encode(record)) < MAX_RECORD_BYTES / 10
