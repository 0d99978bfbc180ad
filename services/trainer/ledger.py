"""The ledger of one piece of work: which stretches of its attempts were charged, and why the others were not."""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

import msgspec
from msgspec.structs import replace

ZERO = timedelta()
MICROSECOND = timedelta(microseconds=1)  # the resolution of ledger time

MAX_SEGMENTS_PER_ATTEMPT = 32  # later checkpoints extend the last one, so that a record stays small
MAX_SEGMENTS = 256  # beyond, the oldest lines of past attempts are summed up


class Reason(StrEnum):
    """Why a segment ended. `workerLost` and `released` are never charged, `failed` is not either."""

    CHECKPOINT = "checkpoint"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WORKER_LOST = "workerLost"
    RELEASED = "released"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the ledger."""

    attempt: int
    number: int = 0  # within its attempt
    duration: timedelta = msgspec.field(name="seconds")  # on the reference device
    charged: bool
    reason: Reason
    end_time: datetime


def added(segments: tuple[Segment, ...], line: Segment) -> tuple[Segment, ...]:
    """With one more line of the latest attempt, numbered; beyond a limit, its charged lines extend the last one."""
    number = sum(segment.attempt == line.attempt for segment in segments)
    if number >= MAX_SEGMENTS_PER_ATTEMPT and (last := segments[-1]).charged and line.charged:
        longer = replace(last, duration=last.duration + line.duration, reason=line.reason, end_time=line.end_time)
        return (*segments[:-1], longer)
    return _summed_up((*segments, replace(line, number=number)))


def total(spans: Iterable[timedelta]) -> timedelta:
    """The exact sum."""
    return sum(spans, ZERO)


def scaled(span: timedelta, factor: Fraction) -> timedelta:
    """The span times a device factor, or its inverse, rounded down to whole microseconds.

    Ledger time is rounded nowhere else. As both the allowance and what it is charged are rounded down, time on a device
    that uses up its allowance is never charged as more than the allowance.
    """
    return timedelta(microseconds=math.floor(span // MICROSECOND * factor))


def _summed_up(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """At most MAX_SEGMENTS: of the three oldest, two are paid for by the same side, and become one."""
    if len(segments) <= MAX_SEGMENTS:
        return segments
    oldest, rest = segments[:3], segments[3:]
    pairs = ((oldest[0], oldest[1]), (oldest[0], oldest[2]), (oldest[1], oldest[2]))
    first, second = next(pair for pair in pairs if pair[0].charged == pair[1].charged)
    both = replace(second, duration=first.duration + second.duration)
    return (*(both if segment is second else segment for segment in oldest if segment is not first), *rest)
