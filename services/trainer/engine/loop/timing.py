"""How long the parts of a fine-tuning take on this machine at present, and whether there is time for another."""

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
SAFETY = 1.5  # times what the end is expected to take, when deciding whether to start something


class OutOfTime(Exception):
    """There is no time left for this; what was delivered stands."""


class Part(Enum):
    """What is measured in addition to steps."""

    PREDICT = "predict"  # one image
    DELIVER = "deliver"  # report, bundle and predictions
    SAVE = "save"  # a checkpoint


def _steps() -> deque[float]:
    return deque(maxlen=RECENT_STEPS)


def _parts() -> defaultdict[Part, deque[tuple[float, float]]]:
    return defaultdict(lambda: deque(maxlen=RECENT_PARTS))


@dataclass(slots=True)
class Pace:
    """Durations in seconds of the meter's clock.

    A part is expected to take the maximum of its recent durations, scaled up if steps have slowed down since: steps
    are measured continuously, parts are not.
    """

    meter: Meter
    _first_step: float = 0.0
    _steps: deque[float] = field(default_factory=_steps)
    _parts: defaultdict[Part, deque[tuple[float, float]]] = field(
        default_factory=_parts
    )  # (seconds, a step's then or 0)

    @property
    def step_seconds(self) -> float:
        """The duration of a step now; 0 before the first. A single slow step is ignored, two in a row are not."""
        if not self._steps:
            return 0.0
        return max(float(np.quantile(self._steps, QUANTILE)), min(list(self._steps)[-2:]))

    def stepped(self, seconds: float) -> None:
        """Records a step's duration, including the wait for its batch."""
        self._first_step = self._first_step or seconds
        self._steps.append(seconds)

    @contextmanager
    def timed(self, part: Part, count: int = 1) -> Generator[None]:
        """Measures the block as `count` such parts, if it succeeds."""
        started = self.meter.used()
        yield
        if count:
            self.took(part, (self.meter.used() - started) / count)

    def took(self, part: Part, seconds: float) -> None:
        """Records a part's duration, or an estimate before the first."""
        self._parts[part].append((seconds, self.step_seconds))

    def expected(self, part: Part) -> float:
        """The expected duration of the part now; 0 before the first `took`."""
        now, first = self.step_seconds, self._first_step
        return max((took * max(1.0, now / (then or first or 1.0)) for took, then in self._parts[part]), default=0.0)

    def leaves(self, end_seconds: float, seconds: float = 0.0) -> bool:
        """Whether there is time for `seconds` and then, with SAFETY, for the end."""
        return self.meter.remaining() >= SAFETY * end_seconds + seconds

    def require(self, seconds: float) -> None:
        """Raises OutOfTime unless `seconds` are left."""
        if self.meter.remaining() < seconds:
            raise OutOfTime
