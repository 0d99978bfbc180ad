"""An evaluation of a detector: its detections in a snapshot, by the code that serves, as the contract's metrics."""

from pathlib import Path

import numpy as np

from services.kit.errors import DatasetAnnotationsInvalid
from services.trainer.coverage import require_known, unknown_categories
from services.trainer.datasets import NO_ANNOTATIONS
from services.trainer.engine.data import Indices
from services.trainer.engine.detection import measure
from services.trainer.engine.detection.data import Scenes, open_scenes
from services.trainer.engine.evaluation import evaluation_result, indices_in, predicted
from services.trainer.engine.session import Session
from services.trainer.messages import EvaluateTask, EvaluationResult
from services.trainer.performance import Coverage, Source
from services.vision.detection_matching import GroundTruth
from services.vision.detector import Detector
from services.vision.graph_models import GraphDetector

BATCH_SIZE = 16  # images predicted together; those of one shape share a forward pass


def evaluate_detector(task: EvaluateTask, session: Session, detector: Detector | GraphDetector) -> EvaluationResult:
    """Matches categories by name; leaves out, and counts, regions of categories that the model does not have.

    Images with only such regions are left out too; those without regions stay, as background. Raises CategoriesUnknown
    if more than half of the regions or images would be left out, DatasetAnnotationsInvalid if nothing is left to find,
    DatasetCorrupt for too many unreadable images, IncorrectModelKind for a classification snapshot.
    """
    scenes = open_scenes(Path(task.directory), task.dataset)
    names = tuple(category.name for category in detector.card.categories)
    of_model = indices_in(names, scenes.categories)
    rows, coverage = _covered(scenes, of_model, names)
    by_row = predicted(task, session, scenes, rows, detector, BATCH_SIZE)
    scenes.require_readable()
    rows = rows[scenes.sound()[rows]]
    truth = _known(scenes.truths(rows), of_model)
    found = measure.detected(measure.columns([by_row[row] for row in rows.tolist()]))
    measured = measure.measure(truth, found, len(rows), names, Source.TEST_DATASET)
    per_image = measure.predictions(names, scenes.ids[rows], truth, found)
    return evaluation_result(task, session, scenes, coverage, measured, per_image)


def _covered(scenes: Scenes, of_model: Indices, names: tuple[str, ...]) -> tuple[Indices, Coverage]:
    """The rows to measure and their coverage, before any image is read."""
    count = len(scenes.samples)
    every = scenes.truths(np.arange(count))
    if not len(every.categories):
        raise DatasetAnnotationsInvalid(file=scenes.dataset, problem=NO_ANNOTATIONS)
    known = of_model[every.categories] >= 0
    left_out = np.isin(np.arange(count), every.images) & ~np.isin(np.arange(count), every.images[known])
    unknown = unknown_categories(_occurrences(scenes, every), names)
    for lost, total, what in ((~known, len(known), "regions"), (left_out, count, "images")):
        require_known(scenes.dataset, unknown, names, int(lost.sum()), total, what)
    if every.crowds[known].all():
        problem = "every region of the model's categories is marked iscrowd, so there is nothing to find."
        raise DatasetAnnotationsInvalid(file=scenes.dataset, problem=problem)
    coverage = Coverage(
        image_count=count,
        measured_image_count=count - int(left_out.sum()),
        unknown_image_count=int(left_out.sum()),
        region_count=len(known),
        unknown_region_count=int((~known).sum()),
        unknown_categories=unknown,
    )
    return np.flatnonzero(~left_out), coverage


def _occurrences(scenes: Scenes, truth: GroundTruth) -> list[tuple[str, int, int]]:
    """Each category's name, and how many images and regions it has."""
    regions = np.bincount(truth.categories, minlength=len(scenes.categories))
    shown = np.unique(np.stack([truth.categories, truth.images]), axis=1)[0]
    images = np.bincount(shown, minlength=len(scenes.categories))
    return list(zip(scenes.categories, images.tolist(), regions.tolist(), strict=True))


def _known(truth: GroundTruth, of_model: Indices) -> GroundTruth:
    """The regions of the model's categories, with the model's category indices."""
    categories = of_model[truth.categories]
    kept = categories >= 0
    return GroundTruth(truth.images[kept], categories[kept], truth.boxes[kept], truth.crowds[kept])
