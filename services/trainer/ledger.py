"""The ledger of one piece of work: which segments of its attempts were charged, and why the others were not."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from itertools import combinations

import msgspec
from msgspec.structs import replace

from services.kit.quotas import month_of

ZERO = timedelta()
MICROSECOND = timedelta(microseconds=1)  # the resolution of ledger time

MAX_SEGMENTS_PER_ATTEMPT = 32  # later checkpoints extend the last one, so that the record stays small
MAX_SEGMENTS = 256  # beyond this, the oldest are merged


class Reason(StrEnum):
    """Why a segment ended. `workerLost`, `released` and `failed` are never charged."""

    CHECKPOINT = "checkpoint"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WORKER_LOST = "workerLost"
    RELEASED = "released"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the ledger."""

    attempt: int
    number: int = 0  # within its attempt
    duration: timedelta = msgspec.field(name="seconds")  # on the reference device
    charged: bool
    reason: Reason
    end_time: datetime


def added(segments: tuple[Segment, ...], new: Segment) -> tuple[Segment, ...]:
    """The segments with a new one of the latest attempt, numbered.

    Once an attempt has many, a charged one extends the last charged one, if that is of the same month.
    """
    number = sum(segment.attempt == new.attempt for segment in segments)
    if number >= MAX_SEGMENTS_PER_ATTEMPT and _alike(last := segments[-1], new) and new.charged:
        longer = replace(last, duration=last.duration + new.duration, reason=new.reason, end_time=new.end_time)
        return (*segments[:-1], longer)
    return _merged((*segments, replace(new, number=number)))


def charged_by_month(segments: Sequence[Segment]) -> dict[str, timedelta]:
    """What was charged in each calendar month: a segment is charged when it ends."""
    months = defaultdict[str, timedelta](timedelta)
    if segments and _month(segments[0]) == _month(segments[-1]):  # nearly always; they are in the order of time
        months[_month(segments[0])] = total(segment.duration for segment in segments if segment.charged)
    else:
        for segment in segments:
            months[_month(segment)] += segment.duration if segment.charged else ZERO
    return {month: charged for month, charged in months.items() if charged}


def total(spans: Iterable[timedelta]) -> timedelta:
    """The exact sum."""
    return sum(spans, ZERO)


def scaled(span: timedelta, factor: Fraction) -> timedelta:
    """The span times a device factor, or its inverse, rounded down to whole microseconds.

    Ledger time is rounded nowhere else. Because the allowance on the device and the charge for it are both rounded
    down, using up the one never costs more than the other.
    """
    return timedelta(microseconds=math.floor(span // MICROSECOND * factor))


def _merged(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """At most MAX_SEGMENTS: of the oldest, two become one that are alike, which of so many there always are."""
    if len(segments) <= MAX_SEGMENTS:
        return segments
    first, second = next(pair for pair in combinations(segments, 2) if _alike(*pair))
    both = replace(second, duration=first.duration + second.duration)
    return tuple(both if segment is second else segment for segment in segments if segment is not first)


def _alike(one: Segment, other: Segment) -> bool:
    """Whether both are charged, or neither is, and in the same month: together they mean the same."""
    return one.charged == other.charged and _month(one) == _month(other)


def _month(segment: Segment) -> str:
    return month_of(segment.end_time)
