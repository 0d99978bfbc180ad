"""The task's own clock and voice: seconds used since it arrived, and messages to the worker."""

import threading
import time
from collections.abc import Callable

from services.trainer.messages import CheckpointDone, Message, Progress, SaveNow, Signal

PROGRESS_SECONDS = 0.25  # between two Progress messages, at least
HANDOVER_SECONDS = 0.5  # for the last message to be heard in time on a busy machine
HANDOVER_SHARE = 0.05  # of the allowance, at most


class Meter:
    """Seconds since the task arrived, against its allowance."""

    def __init__(self, allowance_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self.allowance_seconds = allowance_seconds

    def used(self) -> float:
        """Seconds since the task arrived."""
        return self._clock() - self._start

    def remaining(self) -> float:
        """Seconds until the last message should be under way, shortly before the allowance ends; may be negative."""
        handover = min(HANDOVER_SECONDS, HANDOVER_SHARE * self.allowance_seconds)
        return self.allowance_seconds - handover - self.used()


class Signals:
    """What the worker has said since the task: put by the thread that reads the pipe, read by the training loop."""

    def __init__(self) -> None:
        self._save = threading.Event()
        self.done: CheckpointDone | None = None  # the latest

    def put(self, signal: Signal) -> None:
        """Takes in what has just been read."""
        match signal:
            case SaveNow():
                self._save.set()
            case CheckpointDone():
                self.done = signal

    def save_now(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked = self._save.is_set()
        self._save.clear()
        return asked


class Session:
    """What every part of a task may use: the meter and the way to the worker.

    Progress never falls: each phase has its share of the whole, from `low` to `high`.
    """

    def __init__(self, meter: Meter, send: Callable[[Message], None], signals: Signals | None = None) -> None:
        """Without signals, checkpoints are done with as soon as they are sent."""
        self.meter = meter
        self.send = send
        self.signals = signals
        self._fraction = 0.0
        self._last = float("-inf")

    def progress(self, phase: str, done: float, low: float = 0.0, high: float = 1.0) -> None:
        """Reports that `done` (0..1) of the phase is over; drops reports that follow one another too fast."""
        self._fraction = max(self._fraction, low + (high - low) * min(1.0, max(0.0, done)))
        used = self.meter.used()
        if used - self._last < PROGRESS_SECONDS:
            return
        self._last = used
        self.send(Progress(fraction=self._fraction, phase=phase))
