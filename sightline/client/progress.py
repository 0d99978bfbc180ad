"""Progress of long tasks, on standard error if that is a terminal."""

import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from sightline.client.names import bare_name
from sightline.client.quantities import duration, size
from sightline.client.results.batch import BatchPredictionData
from sightline.client.results.dataset import DatasetData
from sightline.client.results.evaluation import EvaluationData
from sightline.client.results.kinds import BatchState, EvaluationState, ModelState, WaitReason
from sightline.client.results.model import ModelData
from sightline.client.results.progress import Progress as TrainingProgress
from sightline.client.results.progress import Validation, Waiting
from sightline.client.safe_console import SafeConsole
from sightline.plurals import counted
from sightline.v1.dataset_pb2 import DatasetProgress

CHECKING = {
    DatasetProgress.PHASE_UNSPECIFIED: "waiting for a worker",
    DatasetProgress.READING_ANNOTATIONS: "reading annotations",
    DatasetProgress.CHECKING_IMAGES: "checking images",
    DatasetProgress.WRITING_SNAPSHOT: "writing the snapshot",
    DatasetProgress.FINISHED: "done",
}
TRAINING = {
    "PHASE_UNSPECIFIED": "waiting",
    "WAITING_FOR_DATASET": "waiting for the dataset",
    "WAITING_FOR_WORKER": "waiting for a worker",
    "PREPARING": "preparing",
    "SEARCHING": "searching",
    "FINAL_FIT": "final fit",
    "EVALUATING": "evaluating",
    "FINISHED": "done",
}
METRICS = {
    "accuracy_top1": "top-1 accuracy",
    "accuracy_top5": "top-5 accuracy",
    "average_precision": "average precision",
    "calibration_ece": "calibration error",
    "mean_average_precision_30": "mAP at IoU 0.30",
    "mean_average_precision_50": "mAP at IoU 0.50",
    "mean_average_precision_75": "mAP at IoU 0.75",
}
Step = tuple[float, str, str]  # how much is done, 0..1; the current step; its details


class Bar(Protocol):
    """Receives the progress of a long task."""

    def update(self, fraction: float, doing: str, detail: str = "") -> None:
        """Reports how much is done (0..1), the current step, and its details."""
        ...


Reporter = Callable[[str], AbstractContextManager[Bar]]  # takes the task's title, such as `train birds`


class _Silence:
    def update(self, fraction: float, doing: str, detail: str = "") -> None:
        """Does nothing."""


@contextmanager
def silent(_title: str) -> Generator[Bar]:
    """Reports nothing."""
    yield _Silence()


@contextmanager
def on_terminal(title: str) -> Generator[Bar]:
    """A bar while the block runs; nothing if standard error is not a terminal."""
    console = SafeConsole(file=sys.stderr)
    with drawn(title, console) if console.is_terminal else silent(title) as bar:
        yield bar


@contextmanager
def drawn(title: str, console: Console) -> Generator[Bar]:
    """A bar on the console, which must be a terminal."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("[bold]{task.description}[/]"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        # On a narrow terminal the end of the detail is cut off, so that the bar stays on one line.
        TextColumn(
            "{task.fields[doing]}[dim]{task.fields[detail]}[/]",
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield _Drawn(progress, title)


class _Drawn:
    """A bar that is redrawn in place."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(escape(title), total=1.0, doing="", detail="")

    def update(self, fraction: float, doing: str, detail: str = "") -> None:
        shown = f"  {escape(detail)}" if detail else ""
        self._progress.update(self._task, completed=fraction, doing=escape(doing), detail=shown)


@contextmanager
def in_bytes(reporter: Reporter, title: str, doing: str, total: int, done: int = 0) -> Generator[Callable[[int], None]]:
    """Yields a callback for further bytes, which updates the bar."""
    with reporter(title) as bar:

        def add(size_bytes: int) -> None:
            nonlocal done
            done += size_bytes
            bar.update(done / max(total, 1), doing, f"{size(done)} of {size(total)}")

        add(0)
        yield add


def metric_name(field: str) -> str:
    """The readable name of a metric's field."""
    return METRICS.get(field, field.replace("_", " "))


def of_dataset(dataset: DatasetData) -> Step:
    """The progress of a dataset's validation."""
    progress = dataset.message.progress
    detail = f"{progress.images_done} of {counted(progress.images_total, 'image')}" if progress.images_total else ""
    return progress.fraction, CHECKING.get(progress.phase, ""), detail


def of_model(model: ModelData) -> Step:
    """The progress of a training: trial, best metric and budget, if known."""
    progress = model.progress
    parts = [f"trial {bare_name(progress.trial)}"] if progress.trial else []
    if progress.metric_value is not None:
        parts.append(f"{metric_name(progress.metric)} {100 * progress.metric_value:.1f} %")
    parts.append(f"{duration(progress.budget_used)} of {duration(model.budget)}")
    return progress.fraction, doing(model), " · ".join(parts)


def doing(model: ModelData) -> str:
    """What a training does, or why it waits, or that it ended otherwise than by being done."""
    if model.state in (ModelState.FAILED, ModelState.CANCELLED):
        return model.state.lower()
    return why_waiting(model.progress) or TRAINING.get(model.progress.phase, "")


def why_waiting(progress: TrainingProgress) -> str:
    """Why nothing runs for a training, and what is ahead of it; empty while something does."""
    return waiting_words(progress.waiting, progress.queue_position) if progress.waiting else ""


def waiting_words(waiting: Waiting, jobs_ahead: int | None = None) -> str:
    """Why nothing runs, and what is ahead of it."""
    ahead = f" ({counted(jobs_ahead, 'job')} ahead)" if jobs_ahead else ""
    match waiting.reason:
        case WaitReason.DATASET_VALIDATING:
            return "waiting for " + ", ".join(_validation(one) for one in waiting.validations)
        case WaitReason.DATASET_SERVICE_UNREACHABLE:
            return "waiting: the dataset service does not respond"
        case WaitReason.NO_WORKER:
            return "waiting: no trainer worker is connected" + ahead
        case WaitReason.WORKERS_BUSY:
            workers = f"all {waiting.workers} workers are" if waiting.workers > 1 else "the only worker is"
            return f"waiting: {workers} busy with other work" + ahead
        case _:
            return "waiting for a worker" + ahead


def _validation(one: Validation) -> str:
    name = bare_name(one.dataset)
    if not one.started:
        return f"dataset {name}: no dataset worker has taken it yet"
    if not one.images_total:
        return f"dataset {name}: reading annotations"
    return f"dataset {name}: {one.images_done} of {counted(one.images_total, 'image')} checked"


def of_batch(batch: BatchPredictionData) -> Step:
    """The progress of a batch prediction."""
    progress = batch.progress
    if batch.state == BatchState.NOT_STARTED:
        return 0.0, "waiting for a worker", ""
    if not progress.images_total:
        return progress.fraction, "listing the images", ""
    there = progress.images_done + progress.images_failed
    failed = f", {progress.images_failed} failed" if progress.images_failed else ""
    doing = "predicting" if there < progress.images_total else "writing the results"
    doing = "done" if batch.state == BatchState.SUCCEEDED else doing
    return progress.fraction, doing, f"{there} of {counted(progress.images_total, 'image')}{failed}"


def of_evaluation(evaluation: EvaluationData) -> Step:
    """The progress of an evaluation."""
    waiting = evaluation.state == EvaluationState.NOT_STARTED
    return evaluation.progress, "waiting for a worker" if waiting else "measuring", ""
