"""How long the parts of a fine-tuning take on this machine as it is now, and whether there is time for another."""

from collections import defaultdict, deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from services.trainer.engine.session import Meter

RECENT_STEPS = 8
RECENT_PARTS = 3
QUANTILE = 0.75  # of the recent steps
SAFETY = 1.5  # times what the end is expected to take, while there is a choice


class OutOfTime(Exception):
    """There is no time for this any more; what was delivered before stands."""


class Part(Enum):
    """What is measured beside steps."""

    PREDICT = "predict"  # one image
    DELIVER = "deliver"  # report, bundle and predictions
    SAVE = "save"  # a checkpoint


def _steps() -> deque[float]:
    return deque(maxlen=RECENT_STEPS)


def _parts() -> defaultdict[Part, deque[tuple[float, float]]]:
    return defaultdict(lambda: deque(maxlen=RECENT_PARTS))


@dataclass(slots=True)
class Pace:
    """All in seconds, by the meter's clock.

    A part is expected to take what it took at most of late, and longer by as much as steps take longer since: steps
    are measured all the time, parts are not.
    """

    meter: Meter
    _first_step: float = 0.0
    _steps: deque[float] = field(default_factory=_steps)
    _parts: defaultdict[Part, deque[tuple[float, float]]] = field(default_factory=_parts)  # (its, a step's then or 0)

    @property
    def step_seconds(self) -> float:
        """Of a step now; 0 before any. One that stands out says nothing, two in a row say that it goes on so."""
        if not self._steps:
            return 0.0
        return max(float(np.quantile(self._steps, QUANTILE)), min(list(self._steps)[-2:]))

    def stepped(self, seconds: float) -> None:
        """A step took so long, waiting for its batch included."""
        self._first_step = self._first_step or seconds
        self._steps.append(seconds)

    @contextmanager
    def timed(self, part: Part, count: int = 1) -> Generator[None]:
        """Measures what runs inside as `count` such parts, if it ends well."""
        started = self.meter.used()
        yield
        if count:
            self.took(part, (self.meter.used() - started) / count)

    def took(self, part: Part, seconds: float) -> None:
        """The part took so long, or is supposed to as long as nothing was measured."""
        self._parts[part].append((seconds, self.step_seconds))

    def expected(self, part: Part) -> float:
        """Of the part now; 0 before it was measured."""
        now, first = self.step_seconds, self._first_step
        return max((took * max(1.0, now / (then or first or 1.0)) for took, then in self._parts[part]), default=0.0)

    def leaves(self, end_seconds: float, seconds: float = 0.0) -> bool:
        """Whether there is time for so many seconds and then, amply, for the end."""
        return self.meter.remaining() >= SAFETY * end_seconds + seconds

    def require(self, seconds: float) -> None:
        """OutOfTime unless so many are left."""
        if self.meter.remaining() < seconds:
            raise OutOfTime
