"""The progress of a training as a protobuf message."""

from dataclasses import dataclass
from datetime import datetime

from services.kit.status import to_duration
from services.trainer.domain import Evaluation, Model, ModelState, Trial, scored_trial, served_trial, works_of
from services.trainer.evaluation_wire import interval_message
from services.trainer.ledger import ZERO, total
from services.trainer.planner.time_left import time_left
from services.trainer.trial_wire import SCORE_METRICS
from services.trainer.waiting import Waiting
from services.trainer.work import WorkState
from sightline.v1 import dataset_pb2, model_pb2, progress_pb2

MOST = 0.99  # of a training that goes on; counting what was lost, its workers may do more than the budget


@dataclass(frozen=True, slots=True)
class Moment:
    """What the records of a model do not say about it."""

    now: datetime | None = None  # None: leases are not looked at
    queue_position: int | None = None
    waiting: Waiting | None = None


NOTHING = Moment()


def progress_message(
    model: Model, trials: list[Trial], final: Evaluation | None, moment: Moment
) -> model_pb2.TrainingProgress:
    """What the training is doing."""
    works = works_of(trials, final)
    used = min(total(work.charged if work.ended else work.charged + work.pending for work in works), model.budget)
    reported = [trial for trial in trials if trial.work.state is not WorkState.QUEUED]
    served = served_trial(model, trials)
    best = scored_trial(served, trials).result if served else None
    message = model_pb2.TrainingProgress(
        phase=model_pb2.TrainingProgress.Phase.Value(phase_of(model, trials, final)),
        trial=reported[-1].name if reported else "",
        metric_name=SCORE_METRICS[model.model_kind] if best else "",
        metric_value=best.score if best else None,
        budget_used=to_duration(used),
        queue_position=moment.queue_position,
        fraction=1.0 if model.ended else min(MOST, total(work.reached for work in works) / model.budget),
        trials_done=sum(trial.work.ended for trial in trials),
        running=[
            _running_message(record) for record in (*trials, *([final] if final else [])) if _runs(record, moment)
        ],
        rungs=_rungs(trials),
        budget_left=to_duration(max(ZERO, model.budget - used)),
        waiting=waiting_message(moment.waiting) if moment.waiting else None,
    )
    if (left := time_left(model, trials, final)) is not None:
        message.estimated_time_left.CopyFrom(to_duration(left))
    if best and best.score_interval:
        message.metric_interval.CopyFrom(interval_message(best.score_interval))
    return message


def phase_of(model: Model, trials: list[Trial], final: Evaluation | None) -> str:
    """The name of a training's current `TrainingProgress.Phase`."""
    if model.ended:
        return "FINISHED"
    if model.state is ModelState.NOT_STARTED:
        return "WAITING_FOR_DATASET"
    if final is not None:
        return "WAITING_FOR_WORKER" if final.work.state is WorkState.QUEUED else "EVALUATING"
    states = {trial.work.state for trial in trials if not trial.work.ended}
    if not states:
        return "PREPARING"
    return "SEARCHING" if WorkState.RUNNING in states else "WAITING_FOR_WORKER"


def _runs(record: Trial | Evaluation, moment: Moment) -> bool:
    """Whether a worker is running it, as far as is known."""
    work = record.work
    return work.state is WorkState.RUNNING and (moment.now is None or work.lease.is_live(moment.now))


def _running_message(record: Trial | Evaluation) -> progress_pb2.RunningWork:
    work, trial = record.work, record if isinstance(record, Trial) else None
    return progress_pb2.RunningWork(
        name=record.name,
        rung=trial.recipe.rung if trial else 0,
        recipe=trial.recipe.name if trial else "",
        step=work.phase or "preparing",
        progress=work.progress,
        used=to_duration(work.charged + work.pending),
    )


def _rungs(trials: list[Trial]) -> list[progress_pb2.RungProgress]:
    rungs = {number: progress_pb2.RungProgress(rung=number) for number in sorted({t.recipe.rung for t in trials})}
    for trial in trials:
        rung = rungs[trial.recipe.rung]
        rung.trials_done += trial.work.ended
        rung.trials_running += trial.work.state is WorkState.RUNNING
        rung.trials_waiting += trial.work.state is WorkState.QUEUED
    return list(rungs.values())


def waiting_message(waiting: Waiting) -> progress_pb2.Waiting:
    """Why something waits."""
    return progress_pb2.Waiting(
        reason=progress_pb2.Waiting.Reason.Value(waiting.reason),
        workers=waiting.workers,
        busy_workers=waiting.busy_workers,
        validations=[
            progress_pb2.Validation(
                dataset=dataset.name,
                progress=dataset_pb2.DatasetProgress(
                    phase=dataset_pb2.DatasetProgress.Phase.Value(dataset.phase or "PHASE_UNSPECIFIED"),
                    images_done=dataset.images_done,
                    images_total=dataset.images_total,
                    fraction=dataset.fraction,
                ),
            )
            for dataset in waiting.validating
        ],
    )
