"""The possible next steps of a training."""

from dataclasses import dataclass
from datetime import timedelta

from services.kit.errors import Failure
from services.trainer.domain import StopReason
from services.trainer.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Wait:
    """Work is in progress; there is nothing to decide."""


@dataclass(frozen=True, slots=True)
class StartTrial:
    """Run this recipe next."""

    recipe: Recipe
    allowance_seconds: float
    expected_seconds: float
    parent_trial: str = ""  # name of the trial whose settings it repeats, for longer or on more images

    @property
    def allowance(self) -> timedelta:
        """The allowance as ledger time, rounded to a microsecond; never above what is left, which is whole ones."""
        return timedelta(seconds=self.allowance_seconds)


@dataclass(frozen=True, slots=True)
class StartEvaluation:
    """Evaluate the served bundle on the test dataset."""

    allowance: timedelta


@dataclass(frozen=True, slots=True)
class Finish:
    """The training is over and has a bundle."""

    reason: StopReason


@dataclass(frozen=True, slots=True)
class Fail:
    """The training is over and has none."""

    error: Failure


Step = Wait | StartTrial | StartEvaluation | Finish | Fail
