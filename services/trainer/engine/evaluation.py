"""What the evaluations of both kinds share: matching categories, predicting within the allowance, the result."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from services.kit.errors import InvalidImage
from services.trainer.coverage import findings
from services.trainer.engine.data import Images, Indices
from services.trainer.engine.prefetch import prefetched
from services.trainer.engine.session import Session
from services.trainer.messages import EvaluateTask, EvaluationResult
from services.trainer.performance import Coverage, Performance
from services.trainer.predictions import AnyPredictions, write_predictions
from services.vision.graph_models import PIECE, GraphClassifier, GraphDetector

EARLY = 0.25  # share of the allowance before which the pace says little

Input = TypeVar("Input")
Output_co = TypeVar("Output_co", covariant=True)


def indices_in(names: tuple[str, ...], categories: tuple[str, ...]) -> Indices:
    """[categories]: the index of each name in `names`, -1 where it is not among them."""
    position = {name: index for index, name in enumerate(names)}
    return np.array([position.get(name, -1) for name in categories], np.int64)


class Predictor(Protocol[Input, Output_co]):
    """A model of one kind."""

    def prepare(self, data: bytes, name: str = "image", /) -> Input: ...
    def predict_prepared(self, images: Sequence[Input], /) -> Iterable[Output_co]: ...


def predicted(
    task: EvaluateTask,
    session: Session,
    images: Images,
    rows: Indices,
    model: Predictor[Input, Output_co],
    batch_size: int,
) -> dict[int, Output_co]:
    """The model's output for each row, decoded ahead of the forward pass; unreadable images are noted and left out.

    Graphs, whose passes take one thread each, run beside one another, a few images at a time.
    Raises NotEnoughBudget as soon as the pace shows that the allowance will not suffice.
    """
    by_graph = isinstance(model, GraphClassifier | GraphDetector)
    size = PIECE if by_graph else batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]

    def prepared(batch: Indices) -> dict[int, Input]:
        inputs: dict[int, Input] = {}
        for row in batch.tolist():
            try:
                inputs[row] = model.prepare(images.read(row), images.samples[row].record.file_name)
            except (InvalidImage, ValueError, OSError) as fault:
                images.note_unreadable(row, fault)
        return inputs

    def answered(inputs: dict[int, Input]) -> dict[int, Output_co]:
        return dict(zip(inputs, model.predict_prepared(list(inputs.values())), strict=True))

    if by_graph:
        answers = prefetched(lambda batch: answered(prepared(batch)), batches, task.threads)
    else:
        answers = map(answered, prefetched(prepared, batches, task.threads))
    outputs: dict[int, Output_co] = {}
    done = 0
    for batch, found in zip(batches, answers, strict=True):
        outputs |= found
        done += len(batch)
        session.progress("evaluate", done / len(rows))
        _require_time(session, images, done / len(rows))
    return outputs


def _require_time(session: Session, images: Images, done: float) -> None:
    meter = session.meter
    needed = meter.used() / done
    if needed > meter.allowance_seconds and meter.used() > EARLY * meter.allowance_seconds:
        raise meter.not_enough(images.dataset, len(images.samples), needed, 2 * needed)


def evaluation_result(
    task: EvaluateTask,
    session: Session,
    images: Images,
    coverage: Coverage,
    performance: Performance,
    predictions: AnyPredictions,
) -> EvaluationResult:
    """Writes the predictions; the performance is of all covered images but the unreadable ones."""
    path = Path(task.output_directory) / "predictions.msgpack"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(path, predictions)
    coverage = replace(
        coverage,
        measured_image_count=performance.image_count,
        unreadable_image_count=len(images.unreadable),
        untested_categories=tuple(name for name, tag in performance.tag_performance.items() if not tag.support),
    )
    unreadable = images.unreadable_files()
    return EvaluationResult(
        performance=replace(performance, coverage=coverage),
        used=session.meter.elapsed(),
        predictions_path=str(path),
        unreadable=unreadable,
        findings=findings(images.dataset, coverage, unreadable),
    )
