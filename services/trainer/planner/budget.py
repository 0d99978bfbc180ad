"""What is left of a model's budget, and what recipes would cost: by the cost table and the pace of its trials."""

from dataclasses import dataclass
from datetime import timedelta

from services.trainer.domain import MAX_TRIALS, Model, Trial, granted, served_trial
from services.trainer.feature_blocks import FeaturePass
from services.trainer.planner.costs import (
    evaluation_seconds,
    expected_seconds,
    known_passes,
    paced_by_graph,
    reserve_seconds,
    resolution_of,
    slowness,
)
from services.trainer.recipe import Recipe

SLACK = 1.5  # of its expected time: what a trial may take if another may run beside it


@dataclass(frozen=True, slots=True)
class BudgetView:
    """The budget of a model, in time on the reference device.

    A trial that runs keeps its whole allowance; what it does not use is left once it has ended. Here ledger time
    becomes seconds to plan with; `StartTrial.allowance` turns them back.
    """

    image_count: int
    test_count: int
    trials: int  # that may still be planned
    left: timedelta
    pace: float  # see `costs`
    by_graph: bool  # the pace
    resolution: int  # for recipes that leave it open
    served: Recipe | None
    running: tuple[Recipe, ...] = ()
    known: frozenset[FeaturePass] = frozenset()  # need not be repeated
    shared: bool = False  # among trials that run side by side

    @classmethod
    def of(cls, model: Model, trials: list[Trial], *, shared: bool = False) -> "BudgetView":
        """The view from these records."""
        best = served_trial(model, trials)
        return cls(
            image_count=model.training.image_count if model.training else 0,
            test_count=model.test.image_count if model.test else 0,
            trials=min(model.hyperparameters.max_trials or MAX_TRIALS, MAX_TRIALS) - len(trials),
            left=model.budget - granted(trials, None),
            pace=slowness(trials),
            by_graph=paced_by_graph(trials),
            resolution=resolution_of(trials),
            served=best.recipe if best else None,
            running=tuple(trial.recipe for trial in trials if not trial.work.ended),
            known=known_passes(trials),
            shared=shared,
        )

    def expected(self, recipe: Recipe) -> float:
        """Seconds that the recipe is expected to take."""
        return expected_seconds(
            recipe, self.image_count, self.resolution, self.pace, self.known, by_graph=self.by_graph
        )

    def evaluation(self, recipe: Recipe) -> float:
        """Seconds that the final evaluation of the recipe's bundle is expected to take; 0 without a test dataset."""
        return evaluation_seconds(recipe, self.test_count, self.resolution, self.pace)

    def available(self, recipe: Recipe) -> float:
        """Seconds that the recipe may take.

        The time of the final evaluation is held back, be it of this recipe's bundle, of the one served now, or of one
        that is being trained.
        """
        candidates = (recipe, *self.running, *((self.served,) if self.served else ()))
        reserves = (reserve_seconds(each, self.test_count, self.resolution, self.pace) for each in candidates)
        return self.left.total_seconds() - max(reserves)
