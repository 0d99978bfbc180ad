"""How many folds, and how many epochs, a tuning of last stages has time for."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from services.trainer.engine.session import Meter, Session
from services.trainer.messages import TrainTask

PLANNED_SHARE = 0.85  # of the allowance: the rest is for a machine that slows down
RECENT_STEPS = 16


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds and steps of the parts of a tuning."""

    step_seconds: float
    head_seconds: float  # of a head to start from
    end_seconds: float  # of what follows the last step
    fold_steps: int  # in an epoch without one fold
    all_steps: int  # in an epoch of all images

    def fold_seconds(self, epochs: int) -> float:
        """Of one fold."""
        return self.head_seconds + epochs * self.fold_steps * self.step_seconds

    def rest_seconds(self, epochs: int) -> float:
        """Of the tuning on all images, and what follows."""
        return self.head_seconds + epochs * self.all_steps * self.step_seconds + self.end_seconds


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often and how long to tune."""

    folds: int  # that are predicted
    epochs: int


def schedule(task: TrainTask, costs: Costs, meter: Meter, folds: int, images: int) -> Schedule:
    """All folds and epochs if they fit; else fewer folds, at least one; then fewer epochs.

    Raises NotEnoughBudget if not even the recipe's fewest epochs fit.
    """
    recipe, used = task.recipe, meter.used()
    left = PLANNED_SHARE * meter.allowance_seconds - used
    for number in range(folds, 0, -1):
        if number * costs.fold_seconds(recipe.max_epochs) + costs.rest_seconds(recipe.max_epochs) <= left:
            return Schedule(number, recipe.max_epochs)
    fixed = costs.fold_seconds(0) + costs.rest_seconds(0)
    of_epoch = costs.fold_seconds(1) + costs.rest_seconds(1) - fixed
    epochs = int((left - fixed) / of_epoch)
    if epochs >= min(recipe.min_epochs, recipe.max_epochs):
        return Schedule(1, epochs)
    minimum = (used + fixed + recipe.min_epochs * of_epoch) / PLANNED_SHARE
    raise meter.not_enough(task.dataset, images, minimum, 2 * minimum)


@dataclass(slots=True)
class StepClock:
    """Times steps, reports progress, and ends what would not end in time."""

    task: TrainTask
    session: Session
    images: int
    bar: tuple[float, float]
    end_seconds: float = 0.0  # that must be left after every step
    total: int = 0  # steps; 0 while they are not known
    done: int = 0
    _marks: deque[float] = field(default_factory=lambda: deque[float](maxlen=RECENT_STEPS))

    @property
    def step_seconds(self) -> float:
        """The median of the recent steps."""
        return float(np.median(np.diff(self._marks))) if len(self._marks) > 1 else 0.0

    def begin(self) -> None:
        """What passes until the next step is no step's time."""
        self._marks.clear()

    def stepped(self) -> None:
        """Records a step; raises NotEnoughBudget if there is no time to write a result."""
        meter = self.session.meter
        self._marks.append(meter.used())
        if meter.remaining() < self.end_seconds:
            minimum = 2 * meter.allowance_seconds
            raise meter.not_enough(self.task.dataset, self.images, minimum, 2 * minimum)
        if self.total:
            self.done += 1
            self.session.progress("train", self.done / self.total, *self.bar)
        else:
            self.session.alive()
