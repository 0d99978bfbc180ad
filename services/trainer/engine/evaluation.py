"""What the evaluations of both kinds share: matching categories, predicting within the allowance, the result."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from services.kit.errors import InvalidImage, NotEnoughBudget
from services.trainer.coverage import findings
from services.trainer.engine.data import Images, Indices
from services.trainer.engine.prefetch import prefetched
from services.trainer.engine.session import Session
from services.trainer.messages import EvaluateTask, EvaluationResult
from services.trainer.performance import Coverage, Performance
from services.trainer.predictions import AnyPredictions, write_predictions

EARLY = 0.25  # share of the allowance before which the pace says little

Input = TypeVar("Input")
Output = TypeVar("Output")


def indices_in(names: tuple[str, ...], categories: tuple[str, ...]) -> Indices:
    """[categories]: the index of each name in `names`, -1 where it is not among them."""
    position = {name: index for index, name in enumerate(names)}
    return np.array([position.get(name, -1) for name in categories], np.int64)


def predicted(
    task: EvaluateTask,
    session: Session,
    images: Images,
    rows: Indices,
    batch_size: int,
    prepare: Callable[[bytes, str], Input],
    predict: Callable[[Sequence[Input]], Iterable[Output]],
) -> dict[int, Output]:
    """The model's output for each row, decoded ahead of the forward pass; unreadable images are noted and left out.

    Raises NotEnoughBudget as soon as the pace shows that the allowance will not suffice.
    """

    def prepared(batch: Indices) -> tuple[int, dict[int, Input]]:
        inputs: dict[int, Input] = {}
        for row in batch.tolist():
            try:
                inputs[row] = prepare(images.read(row), images.samples[row].record.file_name)
            except (InvalidImage, ValueError, OSError) as fault:
                images.note_unreadable(row, fault)
        return len(batch), inputs

    outputs: dict[int, Output] = {}
    done = 0
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    for size, inputs in prefetched(prepared, batches, task.threads):
        outputs.update(zip(inputs, predict(list(inputs.values())), strict=True))
        done += size
        session.progress("evaluate", done / len(rows))
        _require_time(session, images, done / len(rows))
    return outputs


def _require_time(session: Session, images: Images, done: float) -> None:
    meter = session.meter
    needed = meter.used() / done
    if needed > meter.allowance_seconds and meter.used() > EARLY * meter.allowance_seconds:
        raise NotEnoughBudget(
            budget_seconds=round(meter.allowance_seconds, 1),
            dataset=images.dataset,
            image_count=len(images.samples),
            minimum_seconds=round(needed, 1),
            suggested_seconds=round(2 * needed, 1),
        )


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
