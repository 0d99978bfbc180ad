"""The ledger of one piece of work: which stretches of its attempts were charged, and why the others were not."""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A line of the ledger."""

    attempt: int
    number: int = 0  # within its attempt
    seconds: float  # of the reference device
    charged: bool
    reason: Reason
    end_time: datetime


def added(segments: tuple[Segment, ...], line: Segment) -> tuple[Segment, ...]:
    """With one more line of the latest attempt, numbered; beyond a limit, its charged lines extend the last one."""
    number = sum(segment.attempt == line.attempt for segment in segments)
    if number >= MAX_SEGMENTS_PER_ATTEMPT and (last := segments[-1]).charged and line.charged:
        total = round(last.seconds + line.seconds, 6)
        return (*segments[:-1], replace(last, seconds=total, reason=line.reason, end_time=line.end_time))
    return _summed_up((*segments, replace(line, number=number)))


def whole_microseconds(seconds: float) -> float:
    """Rounded down, but for what a float cannot hold."""
    return math.floor(seconds * 1e6 + 1e-3) / 1e6


def _summed_up(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """At most MAX_SEGMENTS: of the three oldest, two are paid for by the same side, and become one."""
    if len(segments) <= MAX_SEGMENTS:
        return segments
    oldest, rest = segments[:3], segments[3:]
    pairs = ((oldest[0], oldest[1]), (oldest[0], oldest[2]), (oldest[1], oldest[2]))
    first, second = next(pair for pair in pairs if pair[0].charged == pair[1].charged)
    both = replace(second, seconds=round(first.seconds + second.seconds, 6))
    return (*(both if segment is second else segment for segment in oldest if segment is not first), *rest)
