"""What is left of a model's budget, and what recipes would cost: by the cost table and the pace of its trials."""

from dataclasses import dataclass
from datetime import timedelta

from services.trainer.domain import MAX_TRIALS, Model, Trial, granted, served_trial
from services.trainer.planner.costs import expected_seconds, reserve_seconds, resolution_of, slowness
from services.trainer.recipe import Recipe


@dataclass(frozen=True, slots=True)
class BudgetView:
    """The budget of a model whose trials so far have all ended, in time on the reference device.

    Here ledger time becomes seconds to plan with; `StartTrial.allowance` turns them back.
    """

    image_count: int
    test_count: int
    trials: int  # that may still be planned
    left: timedelta
    pace: float  # actual time divided by the table's
    resolution: int  # for recipes that leave it open
    served: Recipe | None

    @classmethod
    def of(cls, model: Model, trials: list[Trial]) -> "BudgetView":
        """The view from these records."""
        best = served_trial(model, trials)
        return cls(
            image_count=model.training.image_count if model.training else 0,
            test_count=model.test.image_count if model.test else 0,
            trials=min(model.hyperparameters.max_trials or MAX_TRIALS, MAX_TRIALS) - len(trials),
            left=model.budget - granted(trials, None),
            pace=slowness(trials),
            resolution=resolution_of(trials),
            served=best.recipe if best else None,
        )

    def expected(self, recipe: Recipe) -> float:
        """Seconds that the recipe is expected to take."""
        return self.pace * expected_seconds(recipe, self.image_count, self.resolution)

    def available(self, recipe: Recipe) -> float:
        """Seconds that the recipe may take.

        The time of the final evaluation is held back, be it of this recipe's bundle or of the one served now.
        """
        candidates = (recipe, self.served) if self.served else (recipe,)
        reserve = max(reserve_seconds(candidate, self.test_count, self.resolution) for candidate in candidates)
        return self.left.total_seconds() - self.pace * reserve
