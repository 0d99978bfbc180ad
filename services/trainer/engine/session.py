"""What every part of a task uses: the clock since it arrived, and the connection to the worker."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

from services.kit.errors import NotEnoughBudget
from services.trainer.engine.group import ALONE, Group
from services.trainer.feature_blocks import FeatureUse
from services.trainer.messages import CheckpointDone, Message, Progress, SaveNow, Signal

PROGRESS_SECONDS = 0.25  # minimum between two Progress messages
HANDOVER_SECONDS = 0.5  # for the last message to arrive in time on a busy machine
HANDOVER_SHARE = 0.05  # of the allowance; HANDOVER_SECONDS does not exceed it


class Meter:
    """Time since the task arrived, against its allowance: floats of seconds to plan with, `elapsed` to charge."""

    def __init__(self, allowance: timedelta, clock: Callable[[], float] = time.monotonic, charge: float = 1.0) -> None:
        """`charge` is how many seconds are charged for each."""
        self._charge = charge
        self._clock = clock
        self._start = clock()
        self.allowance_seconds = allowance.total_seconds()

    def used(self) -> float:
        """Seconds since the task arrived."""
        return self._clock() - self._start

    def elapsed(self) -> timedelta:
        """Time since the task arrived, as the ledger counts it: in whole microseconds."""
        return timedelta(seconds=self.used())

    def remaining(self) -> float:
        """Seconds until the last message should be sent, shortly before the allowance ends; may be negative."""
        handover = min(HANDOVER_SECONDS, HANDOVER_SHARE * self.allowance_seconds)
        return self.allowance_seconds - handover - self.used()

    def not_enough(self, dataset: str, image_count: int, minimum: float, suggested: float) -> NotEnoughBudget:
        """The error of a task that takes at least `minimum` seconds; it names what they are charged as."""
        budget, minimum, suggested = (
            round(seconds * self._charge, 1) for seconds in (self.allowance_seconds, minimum, suggested)
        )
        return NotEnoughBudget(
            budget_seconds=budget,
            dataset=dataset,
            image_count=image_count,
            minimum_seconds=minimum,
            suggested_seconds=suggested,
        )


class Signals:
    """The worker's signals: written by the thread that reads the pipe, read by the training loop."""

    def __init__(self) -> None:
        self._save = threading.Event()
        self.done: CheckpointDone | None = None  # the latest

    def put(self, signal: Signal) -> None:
        """Records a signal."""
        match signal:
            case SaveNow():
                self._save.set()
            case CheckpointDone():
                self.done = signal

    def save_now(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        asked = self._save.is_set()
        self._save.clear()
        return asked


class Session:
    """The meter, and how to reach the worker and the other processes of the group.

    Progress never decreases: each phase covers a range of the whole, from `low` to `high`.
    """

    def __init__(
        self,
        meter: Meter,
        send: Callable[[Message], None],
        signals: Signals | None = None,
        group: Group | None = None,
    ) -> None:
        """Without signals, a checkpoint counts as stored once it is sent."""
        self.group = group or ALONE
        self.meter = meter
        self.send = send
        self.signals = signals
        self.features: FeatureUse | None = None  # once they are extracted
        self._fraction = 0.0
        self._last = float("-inf")
        self._phase = "preparing"

    def progress(self, phase: str, done: float, low: float = 0.0, high: float = 1.0) -> None:
        """Reports that `done` (0..1) of the phase is complete.

        Every phase is reported when it begins; after that, at most one report per PROGRESS_SECONDS is sent.
        """
        self._fraction = max(self._fraction, low + (high - low) * min(1.0, max(0.0, done)))
        if phase != self._phase:
            self._phase, self._last = phase, float("-inf")
        self.alive()

    def alive(self) -> None:
        """Repeats the last report, at most once per PROGRESS_SECONDS: a worker ends a child that is silent for long."""
        used = self.meter.used()
        if used - self._last < PROGRESS_SECONDS:
            return
        self._last = used
        self.send(Progress(fraction=self._fraction, phase=self._phase))
