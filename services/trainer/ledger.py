"""The ledger of one piece of work: which segments of its attempts were charged, and why the others were not."""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

import msgspec
from msgspec.structs import replace

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

    Once an attempt has many, a charged one extends the last charged one.
    """
    number = sum(segment.attempt == new.attempt for segment in segments)
    if number >= MAX_SEGMENTS_PER_ATTEMPT and (last := segments[-1]).charged and new.charged:
        longer = replace(last, duration=last.duration + new.duration, reason=new.reason, end_time=new.end_time)
        return (*segments[:-1], longer)
    return _merged((*segments, replace(new, number=number)))


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
    """At most MAX_SEGMENTS: two of the three oldest are alike in whether they are charged, and become one."""
    if len(segments) <= MAX_SEGMENTS:
        return segments
    oldest, rest = segments[:3], segments[3:]
    pairs = ((oldest[0], oldest[1]), (oldest[0], oldest[2]), (oldest[1], oldest[2]))
    first, second = next(pair for pair in pairs if pair[0].charged == pair[1].charged)
    both = replace(second, duration=first.duration + second.duration)
    return (*(both if segment is second else segment for segment in oldest if segment is not first), *rest)
