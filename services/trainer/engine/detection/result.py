"""What every training of a detector ends with: honest numbers, the bundle, the file of predictions, the Result."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from services.kit.plurals import counted
from services.trainer.engine.detection import measure
from services.trainer.engine.detection.data import Scenes
from services.trainer.engine.detection.start import Origin, within_reach
from services.trainer.engine.loop.task import Found
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition
from services.trainer.messages import Result, TrainTask
from services.trainer.performance import Performance, Source
from services.trainer.predictions import write_predictions
from services.vision import bundle
from services.vision.card import CardCategory, ModelCard, ModelKind
from services.vision.detection import DetectorNetwork
from services.vision.detector import Detector

FEW_IMAGES = 10  # of a category
METRICS = ("mean_average_precision_30", "mean_average_precision_50", "mean_average_precision_75")
UNMEASURED = "These weights were trained on all images, so there was none to measure them on."


def finish(
    task: TrainTask,
    session: Session,
    scenes: Scenes,
    partition: Partition,
    origin: Origin,
    found: Found,
    directory: Path,
) -> Result:
    """Writes bundle and predictions into the folder.

    The performance is of the hold-out, or else of the first fold; with neither, as after a refit, there are no
    numbers, a warning says so, and the thresholds are the task's. A refit has a selection score of 0.
    """
    assert isinstance(found.network, DetectorNetwork), "a detector's"
    rows, answers = partition.first_fold, measure.detected(found.selection)
    truth = scenes.truths(rows)
    measured = _performance(scenes, partition, found)
    warnings = _warnings(scenes, origin, found, measured)
    directory.mkdir(parents=True, exist_ok=True)
    thresholds = measure.thresholds(measured, scenes.categories, task.thresholds)
    card = replace(_card(scenes, origin, measured, warnings, session.meter.used()), thresholds=thresholds)
    bundle.write(directory / "bundle", Detector(card, found.network))
    path = directory / "predictions.msgpack"
    write_predictions(path, measure.predictions(scenes.categories, scenes.ids[rows], truth, answers))
    score, error = measure.selection_score(truth, answers, len(rows), len(scenes.categories))
    return Result(
        bundle_directory=str(directory / "bundle"),
        selection_score=score,
        standard_error=error,
        selection_log_loss=measure.validation_loss(scenes, rows, found.selection) or 1.0,
        predictions_path=str(path),
        performance=measured,
        seconds=session.meter.used(),
        stop_reason="allowance",
        weights_source=origin.weights.source,
        resolution=origin.rule.size,
        image_count=len(scenes.samples),
        category_count=len(scenes.categories),
        throughput=found.throughput,
        backbones=within_reach(task),
        warnings=warnings,
        unreadable=scenes.unreadable_files(),
        epochs=found.epochs,
        steps=found.steps,
        boxes=scenes.statistics(),
    )


def unmeasured_card(scenes: Scenes, origin: Origin) -> ModelCard:
    """What a detector needs to serve."""
    return ModelCard(
        kind=ModelKind.GENERIC_DETECTOR,
        categories=tuple(CardCategory(category.id, category.name) for category in scenes.manifest.categories),
        backbones=(origin.card(),),
        suppression=origin.spec.suppression,
        data_digest=scenes.manifest.digest,
        created=datetime.now(UTC),
    )


def _performance(scenes: Scenes, partition: Partition, found: Found) -> Performance:
    rows, outputs, source = partition.held_out, found.held_out, Source.HOLD_OUT
    if not len(rows):
        rows, outputs, source = partition.first_fold, found.selection, Source.CROSS_VALIDATION
    if not len(rows):
        return Performance(source=source, image_count=0)
    return measure.measure(scenes.truths(rows), measure.detected(outputs), len(rows), scenes.categories, source)


def _warnings(scenes: Scenes, origin: Origin, found: Found, measured: Performance) -> tuple[str, ...]:
    warnings = [note for note in (origin.weights.note, *found.notes) if note]
    if not measured.image_count:
        warnings.append(UNMEASURED)
    if scenes.unreadable:
        files = ", ".join(scenes.unreadable_files()[:5])
        left_out = counted(len(scenes.unreadable), "image was", "images were")
        warnings.append(f"{left_out} left out because they cannot be read, among them {files}.")
    counts = zip(scenes.categories, scenes.image_counts(), strict=True)
    few = [name for name, count in counts if count < FEW_IMAGES]
    if few:
        warnings.append(f"Fewer than {FEW_IMAGES} images: {', '.join(few[:10])}. More of them would help most.")
    return tuple(warnings)


def _card(
    scenes: Scenes, origin: Origin, measured: Performance, warnings: tuple[str, ...], seconds: float
) -> ModelCard:
    values = {name: getattr(measured, name) for name in METRICS}
    return replace(
        unmeasured_card(scenes, origin),
        metrics={name: value for name, value in values.items() if value is not None},
        metrics_source=measured.source.value if measured.image_count else "",
        ledger={"seconds": seconds},
        warnings=warnings,
    )
