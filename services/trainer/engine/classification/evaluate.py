"""An evaluation of a classifier: metrics of its predictions for a snapshot, made by the code that serves.

In torch, batch normalisations are folded first, which changes predictions by rounding and takes a third less time.
"""

from pathlib import Path

import numpy as np

from services.trainer.coverage import require_known, unknown_categories
from services.trainer.engine.classification.fuse import fused
from services.trainer.engine.classification.measure import measure, predictions
from services.trainer.engine.data import Images, Indices, open_images
from services.trainer.engine.evaluation import evaluation_result, indices_in, predicted
from services.trainer.engine.session import Session
from services.trainer.messages import EvaluateTask, EvaluationResult
from services.trainer.performance import Coverage, Source
from services.vision.classifier import BATCH_SIZE, Classifier
from services.vision.graph_models import GraphClassifier


def evaluate_classifier(
    task: EvaluateTask, session: Session, classifier: Classifier | GraphClassifier
) -> EvaluationResult:
    """Categories are matched by name; images of a category that the model does not know are left out and counted.

    Raises CategoriesUnknown if that is more than half of them, DatasetCorrupt for too many unreadable images,
    IncorrectModelKind for a detection snapshot.
    """
    images = open_images(Path(task.directory), task.dataset)
    if isinstance(classifier, Classifier):
        for trunk in classifier.network.networks():
            trunk.features = fused(trunk).features
    names = tuple(category.name for category in classifier.card.categories)
    labels = indices_in(names, images.categories)[images.labels]
    known = np.flatnonzero(labels >= 0)
    coverage = _coverage(images, labels, names)
    by_row = predicted(task, session, images, known, classifier, BATCH_SIZE)
    images.require_readable()
    rows = known[images.sound()[known]]
    scores = np.array([by_row[row] for row in rows.tolist()], np.float32).reshape(len(rows), len(names))
    measured = measure(scores, labels[rows], names, Source.TEST_DATASET)
    per_image = predictions(names, images.ids[rows], labels[rows], np.log(np.maximum(scores, 1e-12)))
    return evaluation_result(task, session, images, coverage, measured, per_image)


def _coverage(images: Images, labels: Indices, names: tuple[str, ...]) -> Coverage:
    """Before any image is read; `labels` are the model's, -1 for a category that it does not know."""
    counts = np.bincount(images.labels, minlength=len(images.categories)).tolist()
    found = [(name, count, 0) for name, count in zip(images.categories, counts, strict=True)]
    unknown, left_out, total = unknown_categories(found, names), int((labels < 0).sum()), len(labels)
    require_known(images.dataset, unknown, names, left_out, total, "images")
    return Coverage(
        image_count=total,
        measured_image_count=total - left_out,
        unknown_image_count=left_out,
        unknown_categories=unknown,
    )
