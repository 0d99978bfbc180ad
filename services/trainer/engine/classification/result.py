"""What every training of a classifier ends with: honest metrics, the bundle, the predictions file, the Result."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from services.trainer.engine.classification.logistic import log_losses
from services.trainer.engine.classification.measure import measure, predictions, softmax
from services.trainer.engine.classification.mistakes import worst_mistakes
from services.trainer.engine.data import Floats, Images, Indices
from services.trainer.engine.pretrained import within_reach
from services.trainer.engine.reporting import bare_card, image_warnings, measured_card, write_files
from services.trainer.engine.session import Session
from services.trainer.insight import Insight, LearningCurve, Mistake
from services.trainer.messages import Result, TrainTask
from services.trainer.name_use import NO_NAME_USE, NameUse
from services.trainer.performance import Interval, Performance, Source
from services.trainer.prediction_cost import bundle_seconds
from services.trainer.used_weights import used_by
from services.vision.card import CardBackbone, ModelCard, ModelKind, WeightsSource
from services.vision.classification_metrics import expected_thresholds
from services.vision.classifier import Classifier, ClassifierNetwork
from services.vision.intervals import wilson_interval
from services.vision.prediction_sets import Calibration

REPORT_SECONDS = 1.0  # for writing a result
CELL_SECONDS = 1e-4  # for each score that its report resamples


def report_seconds(images: int, categories: int) -> float:
    """An estimate of how long `finish` takes."""
    return REPORT_SECONDS + CELL_SECONDS * images * categories


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A trained network, and its calibrated logits for images that it was not trained on."""

    network: ClassifierNetwork
    cards: tuple[CardBackbone, ...]
    temperature: float
    selected: Indices  # images on which trials are compared
    selection_logits: Floats
    held_out: Indices  # images that nothing was chosen by; may be empty
    held_out_logits: Floats
    warnings: tuple[str, ...]
    weights_source: WeightsSource
    resolution: int
    stop_reason: str
    epochs: int = 0
    steps: int = 0
    mirror: bool = True
    learning_curve: LearningCurve | None = None
    names: NameUse = NO_NAME_USE


def finish(task: TrainTask, session: Session, images: Images, finished: Finished, directory: Path) -> Result:
    """Writes bundle and predictions into the folder; the performance is of the hold-out, or else of the selection."""
    labels = images.labels[finished.selected]
    measured = _performance(images, finished)
    counts = np.bincount(images.labels, minlength=len(images.categories))
    warnings = (*finished.warnings, *image_warnings(images, counts))
    card = measured_card(_card(images, finished), measured, warnings, session.meter.used())
    logits = finished.selection_logits
    predicted = predictions(images.categories, images.ids[finished.selected], labels, logits)
    bundle_path, predictions_path = write_files(
        directory, Classifier(card, finished.network), predicted, task.graphs_directory
    )
    right = int((logits.argmax(axis=1) == labels).sum())
    score, limits = right / len(labels), wilson_interval(right, len(labels))
    return Result(
        bundle_directory=bundle_path,
        selection_score=score,
        standard_error=float(np.sqrt(max(score * (1 - score), 1 / (4 * len(labels))) / len(labels))),
        selection_interval=Interval(limits.low, limits.high),
        selection_log_loss=float(log_losses(logits, labels).mean()),
        predictions_path=predictions_path,
        performance=measured,
        used=session.meter.elapsed(),
        stop_reason=finished.stop_reason,
        weights_source=finished.weights_source,
        weights=used_by(finished.cards),
        resolution=finished.resolution,
        image_count=len(images.samples),
        category_count=len(images.categories),
        networks=tuple(dict.fromkeys(card.name for card in finished.cards)),
        backbones=within_reach(task, finished.cards),
        warnings=warnings,
        unreadable=images.unreadable_files(),
        epochs=finished.epochs,
        steps=finished.steps,
        insight=Insight(mistakes=_mistakes(images, finished), learning_curve=finished.learning_curve),
        mirror=finished.mirror,
        features=session.features,
        names=finished.names,
        prediction_seconds=bundle_seconds(card.kind, card.backbones),
    )


def _mistakes(images: Images, finished: Finished) -> tuple[Mistake, ...]:
    """Of all images that were predicted without being trained on."""
    rows = np.concatenate([finished.selected, finished.held_out])
    return worst_mistakes(images, rows, np.concatenate([finished.selection_logits, finished.held_out_logits]))


def _performance(images: Images, finished: Finished) -> Performance:
    if len(finished.held_out):
        logits, rows, source = finished.held_out_logits, finished.held_out, Source.HOLD_OUT
    else:
        logits, rows, source = finished.selection_logits, finished.selected, Source.CROSS_VALIDATION
    return measure(softmax(logits), images.labels[rows], images.categories, source)


def _card(images: Images, finished: Finished) -> ModelCard:
    """Thresholds and calibration are of all images that had no part in fitting what predicted them."""
    scores = softmax(np.concatenate([finished.selection_logits, finished.held_out_logits]))
    labels = images.labels[np.concatenate([finished.selected, finished.held_out])]
    return replace(
        bare_card(ModelKind.GENERIC_CLASSIFIER, images, finished.cards),
        temperature=finished.temperature,
        thresholds=tuple(expected_thresholds(scores, labels).tolist()),
        calibration=Calibration.of(scores[np.arange(len(labels)), labels].tolist()),
    )
