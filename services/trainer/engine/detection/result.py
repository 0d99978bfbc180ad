"""What every training of a detector ends with: honest metrics, the bundle, the predictions file, the Result."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from services.trainer.engine.detection import measure
from services.trainer.engine.detection.data import Scenes
from services.trainer.engine.detection.doubts import doubts
from services.trainer.engine.detection.mistakes import worst_mistakes
from services.trainer.engine.detection.network import Origin
from services.trainer.engine.loop.task import Found
from services.trainer.engine.pretrained import detectors_within_reach
from services.trainer.engine.reporting import bare_card, image_warnings, measured_card, write_files
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition
from services.trainer.insight import Insight
from services.trainer.messages import Result, TrainTask
from services.trainer.performance import Performance, Source
from services.trainer.prediction_cost import bundle_seconds
from services.trainer.used_weights import used_by
from services.vision.card import ModelCard, ModelKind
from services.vision.detector import Detector
from services.vision.detector_network import DetectorNetwork

UNMEASURED = "These weights were trained on all images, so there were none to measure them on."


def finish(
    task: TrainTask,
    session: Session,
    scenes: Scenes,
    partition: Partition,
    origin: Origin,
    found: Found,
    directory: Path,
) -> Result:
    """Writes bundle and predictions into the folder; the performance is of the hold-out, or else of the first fold.

    A refit has a selection score of 0; without a hold-out it has no metrics, a warning, and the task's thresholds.
    """
    rows, answers = partition.first_fold, measure.detected(found.selection)
    truth, measured = scenes.truths(rows), _performance(scenes, partition, found)
    detector = _detector(task, scenes, origin, found, measured, session.meter.used())
    predictions = measure.predictions(scenes.categories, scenes.ids[rows], truth, answers)
    bundle_path, predictions_path = write_files(directory, detector, predictions, task.graphs_directory)
    score, error, limits = measure.selection_score(truth, answers, len(rows), len(scenes.categories))
    return Result(
        bundle_directory=bundle_path,
        selection_score=score,
        standard_error=error,
        selection_interval=limits,
        selection_log_loss=measure.validation_loss(scenes, rows, found.selection) or 1.0,
        predictions_path=predictions_path,
        performance=measured,
        used=session.meter.elapsed(),
        stop_reason="allowance",
        weights_source=origin.weights.source,
        weights=used_by(detector.card.backbones),
        resolution=origin.rule.size,
        image_count=len(scenes.samples),
        category_count=len(scenes.categories),
        backbones=detectors_within_reach(task),
        warnings=detector.card.warnings,
        unreadable=scenes.unreadable_files(),
        epochs=found.epochs,
        steps=found.steps,
        boxes=scenes.statistics(),
        insight=_insight(scenes, partition, found, detector.card.thresholds),
        prediction_seconds=bundle_seconds(detector.card.kind, detector.card.backbones),
    )


def _insight(scenes: Scenes, partition: Partition, found: Found, thresholds: tuple[float, ...]) -> Insight:
    """Of all images that were predicted without being trained on."""
    rows, outputs = partition.first_fold, found.selection
    if len(partition.held_out):
        rows = np.concatenate([rows, partition.held_out])
        outputs = {name: np.concatenate([column, found.held_out[name]]) for name, column in outputs.items()}
    answers = measure.detected(outputs)
    return Insight(
        mistakes=worst_mistakes(scenes, rows, answers, thresholds), doubts=doubts(scenes, rows, answers, thresholds)
    )


def unmeasured_card(scenes: Scenes, origin: Origin) -> ModelCard:
    """What a detector needs to predict."""
    card = bare_card(ModelKind.GENERIC_DETECTOR, scenes, (origin.card(),))
    return replace(card, suppression=origin.spec.suppression)


def _performance(scenes: Scenes, partition: Partition, found: Found) -> Performance:
    rows, outputs, source = partition.held_out, found.held_out, Source.HOLD_OUT
    if not len(rows):
        rows, outputs, source = partition.first_fold, found.selection, Source.CROSS_VALIDATION
    if not len(rows):
        return Performance(source=source, image_count=0)
    return measure.measure(scenes.truths(rows), measure.detected(outputs), len(rows), scenes.categories, source)


def _detector(
    task: TrainTask, scenes: Scenes, origin: Origin, found: Found, measured: Performance, seconds: float
) -> Detector:
    """The network with its card."""
    assert isinstance(found.network, DetectorNetwork), "a detector's"
    warnings = [note for note in (origin.weights.note, *found.notes) if note]
    if not measured.image_count:
        warnings.append(UNMEASURED)
    warnings += image_warnings(scenes, scenes.image_counts())
    card = measured_card(unmeasured_card(scenes, origin), measured, tuple(warnings), seconds)
    return Detector(
        replace(card, thresholds=measure.thresholds(measured, scenes.categories, task.thresholds)), found.network
    )
