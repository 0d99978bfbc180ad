"""One task, from its arrival to its last message; every error becomes a Failed with a reason.

A fine-tuning starts in its kind's `task.start`, runs in `loop.fit` and ends in its kind's `result.finish`.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import msgspec
import torch

from services.kit import pulse
from services.kit.errors import OutOfMemory, SightlineError, UnknownTrainingError
from services.trainer.engine.classification import task as classification
from services.trainer.engine.classification.evaluate import evaluate_classifier
from services.trainer.engine.classification.linear_head import train_head
from services.trainer.engine.classification.tuned_stages import tune_stages
from services.trainer.engine.detection import task as detection
from services.trainer.engine.detection.evaluate import evaluate_detector
from services.trainer.engine.export import export
from services.trainer.engine.group import ALONE, Group, GroupBroken
from services.trainer.engine.loop.fit import fine_tune
from services.trainer.engine.probe import probe
from services.trainer.engine.session import Meter, Session, Signals
from services.trainer.messages import (
    EvaluateTask,
    EvaluationResult,
    Exported,
    ExportTask,
    Failed,
    Message,
    Probed,
    ProbeTask,
    Result,
    Task,
    TrainTask,
)
from services.trainer.recipe import is_linear
from services.vision import bundle
from services.vision.card import ModelKind
from services.vision.device import is_of_device
from services.vision.inputs import DetectorInputs
from services.vision.memory import is_out_of_memory

STARTS = MappingProxyType(
    {ModelKind.GENERIC_CLASSIFIER: classification.start, ModelKind.GENERIC_DETECTOR: detection.start}
)


def run(
    task: Task, send: Callable[[Message], None], signals: Signals | None = None, group: Group = ALONE
) -> Result | EvaluationResult | Probed | Exported | Failed:
    """Runs the task; returns its last message, sends the earlier ones, and obeys the worker's signals.

    Raises GroupBroken if another process of the group dies, and what torch raises if the device fails.
    """
    meter = Meter(task.allowance, charge=task.charge)
    session = Session(meter, send, signals, ALONE if isinstance(task, ProbeTask | ExportTask) else group)
    task = with_share_of_threads(task, group)
    torch.set_num_threads(task.threads)
    try:
        with pulse.heard(session.alive):
            return _result(task, session)
    except SightlineError as error:
        return Failed(failure=error.failure(), traceback=traceback.format_exc())
    except Exception as error:
        if isinstance(error, GroupBroken) or is_of_device(error):
            raise  # the process ends, and the next one finds out whether the device works
        named: SightlineError = UnknownTrainingError(name=_name_of(task), problem=f"{type(error).__name__}: {error}")
        if is_out_of_memory(error):
            named = OutOfMemory(trial=_name_of(task), batch_size=1)
        return Failed(failure=named.failure(), traceback=traceback.format_exc())


def _result(task: Task, session: Session) -> Result | EvaluationResult | Probed | Exported:
    match task:
        case TrainTask():
            return train(task, session)
        case EvaluateTask():
            return evaluate(task, session)
        case ProbeTask():
            return probe(task, session, train)
        case ExportTask():
            return export(task, session)


def with_share_of_threads(task: Task, group: Group) -> Task:
    """The processes of a group divide the threads among themselves."""
    return msgspec.structs.replace(task, threads=max(1, task.threads // group.size))


def train(task: TrainTask, session: Session) -> Result:
    """Runs a trial: a linear head on frozen features, last stages on stored maps, or a fine-tuning."""
    if is_linear(task.recipe):
        return train_head(task, session)
    if task.recipe.stored_maps:
        return tune_stages(task, session)
    return fine_tune(task, session, STARTS[task.recipe.kind])


def evaluate(task: EvaluateTask, session: Session) -> EvaluationResult:
    """Evaluates a bundle, as it is served, with the code of its kind."""
    model = bundle.served(Path(task.bundle_directory), task.device)
    if isinstance(model, DetectorInputs):
        return evaluate_detector(task, session, model)
    return evaluate_classifier(task, session, model)


def _name_of(task: Task) -> str:
    """The resource that the task is for."""
    match task:
        case TrainTask():
            return task.trial
        case EvaluateTask():
            return task.evaluation
        case ProbeTask():
            return task.estimate
        case ExportTask():
            return task.export
