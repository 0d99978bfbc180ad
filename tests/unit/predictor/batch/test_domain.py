"""The record of a batch prediction: every change that is possible, and none that is not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit import codec
from services.kit.errors import Failure, LeaseLost, WrongState
from services.predictor.batch.domain import BatchRecord, Output, Plan, Source, Tally
from services.predictor.batch.states import ENDED, TRANSITIONS, Event, State
from services.predictor.domain import Bundle

NOW = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
TTL = timedelta(seconds=20)
ERROR = Failure(5, "ModelNotFound", "models/m does not exist.")
PLAN = Plan("work/plan-1/", 3, 8)
OUTPUTS = (Output("results.json", "batchPredictions/b/u/results.json", 2, "abc"),)


def record() -> BatchRecord:
    bundle = Bundle("models/m", "v1", "s3://sightline/models/m/u/trials/t/1/bundle/")
    return BatchRecord("batchPredictions/b", "u", bundle, Source(prefix="uploads/u/"), "out/", NOW, NOW)


def running() -> BatchRecord:
    return record().taken("w", NOW, TTL).planned(PLAN, NOW)


CHANGES = {
    "take": lambda one, now: one.taken("w", now, TTL),
    "plan": lambda one, now: one.planned(PLAN, now),
    "move": lambda one, now: one.moved(1, Tally(2, 0), now),
    "predict 0": lambda one, now: one.predicted(0, "d0", Tally(3, 0), timedelta(seconds=2), now),
    "predict 2": lambda one, now: one.predicted(2, "d2", Tally(1, 1), timedelta(seconds=1), now),
    "doom": lambda one, now: one.doomed(ERROR, now),
    "deliver": lambda one, now: one.delivered(OUTPUTS, now),
    "give up": lambda one, now: one.given_up(ERROR, now),
    "cancel": lambda one, now: one.cancelled(now),
    "delete": lambda one, now: one.deleting(now),
    "empty": lambda one, now: one.without_blobs(now),
}


@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=12))
def test_no_sequence_of_changes_leaves_the_state_machine(names: list[str]) -> None:
    one, now = record(), NOW
    allowed = {(before, after) for moves in TRANSITIONS.values() for before, after in moves.items()}
    for name in names:
        before, now = one, now + timedelta(seconds=1)
        try:
            one = CHANGES[name](one, now)
        except (WrongState, LeaseLost):
            continue
        assert one.state is before.state or (before.state, one.state) in allowed
        assert before.state not in ENDED or one is before or name == "delete", "nothing else changes one that has ended"
        assert one.fraction >= before.fraction
        assert one.cost >= before.cost
        assert one.ended == (one.state in ENDED)
        assert one.is_deleting or (one.end_time is not None) == one.ended
        assert one.emptied <= one.is_deleting
        assert (one.error is not None) >= (one.state is State.FAILED)
        assert not (one.ended and one.lease.holder)
        assert codec.decode(codec.encode(one), BatchRecord) == one


def test_of_several_attempts_at_a_chunk_the_first_counts_and_is_charged() -> None:
    first = running().predicted(0, "first", Tally(2, 1), timedelta(seconds=2), NOW)
    again = first.predicted(0, "second", Tally(3, 0), timedelta(seconds=9), NOW)
    assert again is first
    assert (first.results, first.finished, first.cost) == ({0: "first"}, Tally(2, 1), timedelta(seconds=2))
    assert first.missing == [1, 2]


def test_a_later_attempt_never_lowers_what_an_earlier_one_reported() -> None:
    further = running().moved(1, Tally(2, 0), NOW)
    assert further.moved(1, Tally(1, 0), NOW) is further
    assert further.tally == Tally(2, 0)
    assert further.predicted(1, "d", Tally(2, 1), timedelta(), NOW).partial == {}


def test_the_charge_counts_in_the_month_in_which_the_chunk_ends() -> None:
    later = NOW + timedelta(minutes=2)
    one = running().predicted(0, "d0", Tally(3, 0), timedelta(seconds=2), NOW)
    one = one.predicted(1, "d1", Tally(3, 0), timedelta(seconds=3), later)
    assert one.charged == {"2026-01": timedelta(seconds=2), "2026-02": timedelta(seconds=3)}


def test_no_more_than_the_allowance_is_charged_and_the_rest_fails() -> None:
    one = replace(running(), allowance=timedelta(seconds=5))
    one = one.predicted(0, "d0", Tally(3, 0), timedelta(seconds=3), NOW)
    assert (one.remaining, one.error) == (timedelta(seconds=2), None)
    over = one.predicted(1, "d1", Tally(3, 0), timedelta(seconds=9), NOW)
    assert (over.cost, over.remaining, over.finished) == (timedelta(seconds=5), timedelta(), Tally(6, 0))
    assert over.error is not None
    assert over.error.message == (
        "Seconds of compute of batchPredictions/b: more than 5 is more than the limit of 5 "
        "(SIGHTLINE_MAX_PROJECT_COMPUTE_SECONDS)."
    )
    assert over.is_to_finish
    ended = over.delivered(OUTPUTS, NOW)
    assert (ended.state, ended.cost) == (State.FAILED, timedelta(seconds=5))


def test_an_attempt_that_has_spent_the_rest_ends_it_before_its_chunk_is_finished() -> None:
    one = replace(running(), allowance=timedelta(seconds=5))
    assert one.moved(0, Tally(1, 0), NOW, timedelta(seconds=4)).error is None
    over = one.moved(0, Tally(2, 0), NOW, timedelta(seconds=5))
    assert (over.cost, over.remaining, over.is_to_finish) == (timedelta(seconds=5), timedelta(), True)


def test_the_last_chunk_may_use_up_the_allowance() -> None:
    one = replace(running(), allowance=timedelta(seconds=3), plan=Plan("p", 3, 3))
    one = one.predicted(0, "d0", Tally(3, 0), timedelta(seconds=4), NOW)
    assert (one.error, one.cost) == (None, timedelta(seconds=3))
    assert one.delivered(OUTPUTS, NOW).state is State.SUCCEEDED


@pytest.mark.parametrize("change", ["cancel", "delete", "deliver"])
def test_what_has_ended_reserves_nothing(change: str) -> None:
    one = CHANGES[change](replace(running(), allowance=timedelta(seconds=5)), NOW)
    assert one.remaining == timedelta(seconds=5 if change == "cancel" else 0)


def test_results_elsewhere_are_not_its_own() -> None:
    one = running().delivered(OUTPUTS, NOW)
    assert one.stored_bytes == 0
    assert replace(one, output=one.prefix).stored_bytes == 2


def test_results_are_written_after_the_last_chunk_or_when_no_more_are_wanted() -> None:
    one = running()
    for number in range(3):
        assert not one.is_to_finish
        one = one.predicted(number, "d", Tally(1, 0), timedelta(), NOW)
    assert one.is_to_finish
    assert one.delivered(OUTPUTS, NOW).state is State.SUCCEEDED
    assert running().doomed(ERROR, NOW).is_to_finish
    assert running().doomed(ERROR, NOW).delivered(OUTPUTS, NOW).state is State.FAILED
    assert running().cancelled(NOW).is_to_finish
    assert running().cancelled(NOW).delivered(OUTPUTS, NOW).state is State.CANCELLED
    assert record().cancelled(NOW).is_to_finish


def test_the_first_reason_counts() -> None:
    other = Failure(13, "other", "something else")
    assert running().doomed(ERROR, NOW).doomed(other, NOW).error == ERROR
    assert running().doomed(ERROR, NOW).given_up(other, NOW).error == ERROR


@pytest.mark.parametrize(("images", "chunks"), [(1, 1), (3, 1), (4, 2), (9, 3)])
def test_a_plan_has_as_many_chunks_as_its_images_need(images: int, chunks: int) -> None:
    assert Plan("p", 3, images).chunk_count == chunks


def test_every_event_has_its_transitions() -> None:
    assert TRANSITIONS.keys() == set(Event)
