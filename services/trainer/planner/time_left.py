"""How long a training will still take: an estimate from the planner's costs and the pace of the trials so far."""

import dataclasses
from datetime import timedelta

from msgspec.structs import replace

from services.trainer.domain import Evaluation, Model, ModelState, Trial, TrialResult, served_trial, works_of
from services.trainer.ledger import ZERO, Reason, Segment, total
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.plan import plan
from services.trainer.planner.steps import StartTrial
from services.trainer.work import Work, WorkState

RELIABLE = 0.2  # share of a trial from which its own pace says more than the planner's expectation
MOST_TRIALS = 50  # to look ahead


def time_left(model: Model, trials: list[Trial], final: Evaluation | None) -> timedelta | None:
    """Clock time until the training ends, if workers run it without a pause; None before the first trial.

    Trials that run at the same time are supposed to go on side by side, and those that follow (see `ahead`) to run one
    after another.
    """
    if model.state is not ModelState.TRAINING or not trials:
        return None
    works = works_of(trials, final)
    left = model.budget - total(work.charged if work.ended else work.charged + work.pending for work in works)
    if final is not None:
        compute = _work_left(final.work, _evaluation_seconds(model, trials))
    else:
        running = [_work_left(trial.work, trial.expected_seconds) for trial in trials if not trial.work.ended]
        compute = max(running, default=0.0) + sum(step.expected_seconds for step in ahead(model, trials))
        compute += _evaluation_seconds(model, trials)
    return max(ZERO, min(timedelta(seconds=compute), left)) * _clock_ratio(trials)


def ahead(model: Model, trials: list[Trial]) -> list[StartTrial]:
    """The trials that the planner would add to these, if each is as good as the best so far and is served."""
    result = next((trial.result for trial in (served_trial(model, trials), *trials) if trial and trial.result), None)
    if result is None:
        return []
    supposed = [trial if trial.work.ended else _ended(trial, result) for trial in trials]
    model = _serving(model, supposed[-1]) if not trials[-1].work.ended else model
    steps: list[StartTrial] = []
    while len(steps) < MOST_TRIALS and isinstance(step := plan(model, supposed, None), StartTrial):
        steps.append(step)
        planned = replace(
            trials[-1],
            name=f"{model.name}/trials/t{len(supposed):03d}",
            number=len(supposed),
            recipe=step.recipe,
            expected_seconds=step.expected_seconds,
            parent_trial=step.parent_trial,
            work=Work(create_time=trials[-1].work.create_time, allowance=step.allowance),
        )
        supposed.append(_ended(planned, result))
        model = _serving(model, planned)
    return steps


def _serving(model: Model, trial: Trial) -> Model:
    return replace(model, served=dataclasses.replace(model.served, trial=trial.name)) if model.served else model


def _ended(trial: Trial, result: TrialResult) -> Trial:
    """The trial as if it had taken the expected time and brought this result."""
    work = trial.work
    took = min(work.allowance, max(timedelta(seconds=trial.expected_seconds), work.charged + work.pending))
    segment = Segment(attempt=1, duration=took, charged=True, reason=Reason.FINISHED, end_time=work.create_time)
    ended = replace(work, state=WorkState.SUCCEEDED, segments=(segment,), pending=ZERO)
    return replace(trial, work=ended, result=dataclasses.replace(result, epochs=trial.recipe.max_epochs))


def _work_left(work: Work, expected_seconds: float) -> float:
    """Seconds of compute, by the work's own pace once it is reliable, and within its allowance."""
    used = (work.charged + work.pending).total_seconds()
    if work.progress >= RELIABLE and used:
        expected_seconds = used / work.progress
    return max(0.0, min(expected_seconds, work.allowance.total_seconds()) - used)


def _evaluation_seconds(model: Model, trials: list[Trial]) -> float:
    """What the final evaluation is expected to take; 0 without a test dataset."""
    budget = BudgetView.of(model, trials)
    recipe = budget.served or trials[0].recipe
    return budget.evaluation(recipe)


def _clock_ratio(trials: list[Trial]) -> float:
    """Clock time per time charged, by the trials that one attempt ran to the end; 1 before there is one.

    Includes what is not charged, such as fetching images, and the speed of the workers' devices.
    """
    whole = [trial.work for trial in trials if trial.work.ended and trial.work.attempt == 1 and trial.work.charged]
    clock = total(work.end_time - work.start_time for work in whole if work.end_time and work.start_time)
    charged = total(work.charged for work in whole)
    return clock / charged if clock and charged else 1.0
