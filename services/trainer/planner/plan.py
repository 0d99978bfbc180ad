"""The ladder of trials: which recipe comes next, what it will cost, and when to stop. Pure functions of records.

Cheap recipes come first, so that there is a usable model after seconds; a more expensive one follows only if its
predicted cost and the final evaluation fit into what is left of the budget. Costs are predicted from a table for the
reference device, scaled by what earlier trials took.
"""

from services.kit.errors import Failure
from services.trainer.domain import Evaluation, Model, StopReason, Trial, granted
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.ladder import next_trial
from services.trainer.planner.needs import not_enough
from services.trainer.planner.steps import Fail, Finish, StartEvaluation, StartTrial, Step, Wait


def plan(model: Model, trials: list[Trial], final: Evaluation | None, free: int = 0) -> Step:
    """What a model in TRAINING needs next. `trials` ascend by number; `final` is its final evaluation, if planned.

    While trials run, a further one starts only if a worker is free. If none runs, `free` decides nothing but the next
    trial's allowance: with more than one worker, something is left for a trial beside it.
    """
    if final is not None:
        return Finish(_reason(model, trials)) if final.work.ended else Wait()
    running = any(not trial.work.ended for trial in trials)
    if running and (free < 1 or model.search_ended):
        return Wait()
    if model.search_ended:
        return StartEvaluation(model.budget - granted(trials, None))
    step = next_trial(model, trials, shared=running or free > 1)
    if isinstance(step, StartTrial):
        return step
    if running or isinstance(step, Wait):
        return Wait()
    if model.served is None:
        return Fail(_failure(model, trials))
    if model.test is not None:
        return StartEvaluation(model.budget - granted(trials, None))
    return Finish(step)


def _reason(model: Model, trials: list[Trial]) -> StopReason:
    step = next_trial(model, trials)
    return step if isinstance(step, StopReason) else StopReason.BUDGET_REACHED


def _failure(model: Model, trials: list[Trial]) -> Failure:
    """Why there is no bundle: the last trial's error, or a budget that was too small."""
    for trial in reversed(trials):
        if trial.work.error is not None:
            return trial.work.error
    budget = BudgetView.of(model, trials)
    return not_enough(model, budget.image_count, budget.test_count, max(1.0, budget.pace), tried=True).failure()
