"""The progress of a training: what runs, what has been tried, and why it waits."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from sightline.client.results.convert import given, span
from sightline.client.results.kinds import WaitReason, name_of, word
from sightline.client.results.performance import Interval
from sightline.v1 import model_pb2, progress_pb2


@dataclass(frozen=True, slots=True)
class RunningWork:
    """A trial, or the final evaluation, that a worker is running."""

    name: str  # `models/birds/trials/t001` or `models/birds/evaluations/final`
    rung: int
    recipe: str  # in words; empty for the evaluation
    step: str  # `preparing`, `features`, `fit`, `train`, `calibrate`, `evaluate` or `bundle`
    fraction: float  # how much of it is done, 0..1
    used: timedelta


@dataclass(frozen=True, slots=True)
class RungProgress:
    """The trials of one rung of the ladder."""

    rung: int  # 0: heads on frozen features, 1: fine-tuning
    done: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Validation:
    """How far the validation of a dataset is."""

    dataset: str
    started: bool  # whether a dataset worker has taken it
    images_done: int
    images_total: int  # 0 until the annotation files are read
    fraction: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a training, or the making of an archive, does not move."""

    reason: WaitReason
    workers: int  # connected trainer workers
    busy_workers: int
    validations: tuple[Validation, ...]  # of the datasets that it waits for

    @classmethod
    def of(cls, message: progress_pb2.Waiting) -> Self:
        """The content of the message."""
        return cls(
            reason=word(WaitReason, progress_pb2.Waiting.Reason, message.reason),
            workers=message.workers,
            busy_workers=message.busy_workers,
            validations=tuple(
                Validation(
                    dataset=one.dataset,
                    started=bool(one.progress.phase),
                    images_done=one.progress.images_done,
                    images_total=one.progress.images_total,
                    fraction=one.progress.fraction,
                )
                for one in message.validations
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a training is doing."""

    phase: str  # such as `SEARCHING`
    fraction: float  # how much is done, 0..1
    trial: str  # the newest that a worker has started, such as `models/birds/trials/t001`
    trials_done: int
    metric: str  # the metric that selects the best trial, a field of Performance
    metric_value: float | None  # the best so far
    metric_interval: Interval | None
    budget_used: timedelta
    budget_left: timedelta
    estimated_time_left: timedelta | None  # clock time, a rough estimate; None until there is a trial
    queue_position: int | None  # jobs ahead of this model's next one, while it waits for a worker
    running: tuple[RunningWork, ...]  # what workers run for this model now
    rungs: tuple[RungProgress, ...]
    waiting: Waiting | None  # why nothing runs; None while something does

    @classmethod
    def of(cls, message: model_pb2.TrainingProgress) -> Self:
        """The content of the message."""
        interval, left = given(message, "metric_interval"), given(message, "estimated_time_left")
        return cls(
            phase=name_of(model_pb2.TrainingProgress.Phase, message.phase),
            fraction=message.fraction,
            trial=message.trial,
            trials_done=message.trials_done,
            metric=message.metric_name,
            metric_value=given(message, "metric_value"),
            metric_interval=Interval.of(interval) if interval is not None else None,
            budget_used=span(message.budget_used),
            budget_left=span(message.budget_left),
            estimated_time_left=span(left) if left is not None else None,
            queue_position=given(message, "queue_position"),
            running=tuple(
                RunningWork(one.name, one.rung, one.recipe, one.step, one.progress, span(one.used))
                for one in message.running
            ),
            rungs=tuple(
                RungProgress(one.rung, one.trials_done, one.trials_running, one.trials_waiting) for one in message.rungs
            ),
            waiting=Waiting.of(message.waiting) if message.HasField("waiting") else None,
        )
