"""Places, shares, rates and bytes: who is let in, who is refused, and who waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.infra.admission import REMEMBERED, Admission, Place
from services.infra.limits import MIB, Bucket, Limits
from services.infra.open_calls import OpenCalls
from services.kit.callers import ALL_PROJECTS, Caller
from services.kit.errors import Overloaded, Throttled
from services.kit.roles import Role
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry

LIMITS = Limits.of(
    Settings(max_calls=100, max_bytes_in_flight=100 * MIB, caller_rate=0, project_rate=0), {"UploadFiles": MIB}
)
ADMIN = Caller("admin", frozenset({Role.ADMIN}))


def viewer(name: str, project: str = "default") -> Caller:
    return Caller(name, frozenset({Role.VIEWER}), project=project)


class Case:
    """An admission with a clock that the test sets."""

    def __init__(self, **changes: Any) -> None:
        self.seconds = 0.0
        self.telemetry = MemoryTelemetry()
        self.admission = Admission("test", replace(LIMITS, **changes), self.telemetry, lambda: self.seconds)

    def enter(self, caller: Caller | None, count: int = 1, *, stream: bool = False) -> list[Place]:
        return [self.admission.enter(caller, stream=stream) for _ in range(count)]

    def refused(self, limit: str, whose: str) -> float:
        return self.telemetry.values["sightline_server_refused_total", (("limit", limit), ("whose", whose))]


def test_a_caller_has_a_share_of_the_calls_and_others_still_find_room() -> None:
    case = Case()
    places = case.enter(viewer("many"), 25)
    with pytest.raises(Throttled, match=r"caller key:many .* 25 calls in flight \(SIGHTLINE_CALLER_SHARE\)"):
        case.enter(viewer("many"))
    assert case.refused("calls", "caller") == 1
    case.enter(viewer("another"))
    case.admission.leave(places[0])
    case.admission.leave(places[0])  # again does nothing
    case.enter(viewer("many"))
    with pytest.raises(Throttled):
        case.enter(viewer("many"))


def test_the_same_subject_of_another_issuer_is_another_caller() -> None:
    case = Case()
    case.enter(viewer("alice"), 25)
    case.enter(replace(viewer("alice"), issuer="https://issuer.example"))


def test_a_service_that_calls_for_one_project_leaves_what_it_may_call_for_another() -> None:
    """Else one project, by lookups of names that do not exist, would use up the services' share for all."""
    case = Case(caller_rate=20.0)
    service = replace(viewer("services"), projects=frozenset({ALL_PROJECTS}))
    case.enter(service, 25)
    with pytest.raises(Throttled, match="caller key:services for default"):
        case.enter(service)
    case.enter(replace(service, project="acme"), 25)
    one = replace(viewer("one"), projects=frozenset({"default", "acme"}))
    case.enter(one, 25)
    with pytest.raises(Throttled, match="caller key:one already"):
        case.enter(replace(one, project="acme"))


def test_streams_leave_places_for_short_calls() -> None:
    case = Case()
    case.enter(viewer("a"), 12, stream=True)
    with pytest.raises(Throttled, match="12 streams in flight"):
        case.enter(viewer("a"), stream=True)
    case.enter(viewer("a"), 13)


def test_a_project_has_a_share_that_holds_back_its_callers_but_no_admin_and_no_other_project() -> None:
    case = Case()
    for name in "abc":
        case.enter(viewer(name), 25)
    with pytest.raises(Throttled, match=r"project default .* 75 calls in flight \(SIGHTLINE_PROJECT_SHARE\)"):
        case.enter(viewer("d"))
    case.enter(ADMIN)
    case.enter(viewer("d", "another"))


def test_places_are_kept_for_admins() -> None:
    case = Case()
    for number in range(4):
        case.enter(viewer(f"v{number}", f"p{number}"), 25 if number < 3 else 15)
    with pytest.raises(Overloaded, match="already has 90 calls in flight"):
        case.enter(viewer("late", "p9"))
    case.enter(ADMIN, 10)
    with pytest.raises(Overloaded, match="already has 100 calls in flight"):
        case.enter(ADMIN)
    assert case.refused("calls", "server") == 2


def test_without_tokens_only_the_servers_own_limits_hold() -> None:
    case = Case()
    case.enter(None, 100)
    with pytest.raises(Overloaded):
        case.enter(None)


def test_a_rate_lets_a_burst_through_and_then_so_many_calls_a_second() -> None:
    case = Case(caller_rate=5.0)
    for _ in range(10):
        case.admission.leave(case.enter(viewer("a"))[0])
    with pytest.raises(Throttled, match=r"5 calls a second \(SIGHTLINE_CALLER_RATE\)"):
        case.enter(viewer("a"))
    case.enter(viewer("b"))
    case.seconds = 0.4
    case.enter(viewer("a"), 2)
    with pytest.raises(Throttled):
        case.enter(viewer("a"))


def test_a_projects_rate_is_shared_by_its_callers() -> None:
    case = Case(project_rate=2.0)
    for name in "abcd":
        case.enter(viewer(name))
    with pytest.raises(Throttled, match="SIGHTLINE_PROJECT_RATE"):
        case.enter(viewer("e"))


def test_a_bucket_is_full_again_after_a_while() -> None:
    seconds = [0.0]
    bucket = Bucket(2.0, lambda: seconds[0])
    assert [bucket.take() for _ in range(5)] == [True, True, True, True, False]
    assert not bucket.is_full
    seconds[0] = 2.0
    assert bucket.is_full


def test_idle_callers_are_forgotten_before_there_are_too_many() -> None:
    case = Case(caller_rate=50.0)
    busy = case.enter(viewer("busy"), 25)
    for number in range(3 * REMEMBERED):
        case.admission.leave(case.enter(viewer(str(number)))[0])
        case.seconds += 1
    assert len(case.admission._scopes) <= REMEMBERED + 1
    with pytest.raises(Throttled):
        case.enter(viewer("busy"))
    for place in busy:
        case.admission.leave(place)


async def test_bytes_are_waited_for_in_turn_and_no_caller_waits_for_anothers_share() -> None:
    case = Case()
    first, second, third = case.enter(viewer("a"), 3)
    await case.admission.room(first, 20 * MIB)
    waiting = [asyncio.create_task(case.admission.room(place, 10 * MIB)) for place in (second, third)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    (other,) = case.enter(viewer("b"))
    await asyncio.wait_for(case.admission.room(other, 20 * MIB), 1)
    case.admission.hold(first, 10 * MIB)
    await waiting[0]
    assert not waiting[1].done()
    case.admission.leave(first)
    await waiting[1]
    assert (second.bytes, third.bytes, other.bytes) == (10 * MIB, 10 * MIB, 20 * MIB)


async def test_a_call_that_gives_up_waiting_takes_no_bytes() -> None:
    case = Case()
    first, second = case.enter(viewer("a"), 2)
    await case.admission.room(first, 25 * MIB)
    waiting = asyncio.create_task(case.admission.room(second, MIB))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    case.admission.leave(first)
    case.admission.leave(second)
    case.admission.tell()
    assert case.telemetry.values["sightline_server_bytes_in_flight", ()] == 0


async def test_a_message_larger_than_a_share_is_let_in_alone() -> None:
    case = Case()
    first, second = case.enter(viewer("a"), 2)
    await asyncio.wait_for(case.admission.room(first, 60 * MIB), 1)
    waiting = asyncio.create_task(case.admission.room(second, MIB))
    await asyncio.sleep(0)
    assert not waiting.done()
    case.admission.leave(first)
    await waiting


def test_a_response_beyond_the_callers_share_of_bytes_is_refused() -> None:
    case = Case()
    first, second = case.enter(viewer("a"), 2)
    case.admission.check(first, 20 * MIB)
    with pytest.raises(Throttled, match="bytes in flight"):
        case.admission.check(second, 10 * MIB)
    assert case.refused("bytes", "caller") == 1


class Pool:
    """A pool of four open calls, and which of them were ended."""

    def __init__(self) -> None:
        self.calls = OpenCalls(4, MemoryTelemetry())
        self.ended: list[str] = []

    def enter(self, name: str, host: str) -> Any:
        return self.calls.enter(f"ipv4:{host}:{len(name)}", lambda: self.ended.append(name))


def test_a_full_pool_ends_its_oldest_call() -> None:
    pool = Pool()
    for name, host in (("one", "a"), ("two", "a"), ("three", "b"), ("four", "b"), ("five", "c")):
        pool.enter(name, host)
    assert pool.ended == ["one"]


def test_a_host_with_half_of_the_pool_ends_only_calls_of_its_own() -> None:
    pool = Pool()
    for name, host in (("one", "a"), ("two", "b"), ("three", "b"), ("four", "b")):
        pool.enter(name, host)
    assert pool.ended == ["two"]


def test_a_host_whose_answers_are_stuck_keeps_only_itself_out() -> None:
    pool = Pool()
    for name in ("one", "two"):
        pool.enter(name, "a").is_answered = True
    with pytest.raises(Overloaded):
        pool.enter("three", "a")
    for name in ("four", "five"):
        pool.enter(name, "b")
    assert pool.ended == []


def test_sizes_and_times_follow_the_rpc() -> None:
    assert (LIMITS.bytes_of("UploadFiles"), LIMITS.bytes_of("GetDataset")) == (MIB, 64 * 1024)
    assert LIMITS.message_bytes == MIB
    assert (LIMITS.seconds_of("GetDataset"), LIMITS.seconds_of("UploadFiles")) == (10, 14)
    assert Limits.of(Settings(), {}).message_bytes == 64 * 1024
