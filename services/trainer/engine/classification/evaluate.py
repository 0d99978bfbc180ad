"""An evaluation of a classifier: its predictions for a snapshot, by the code that serves, into the contract's numbers.

Only the batch normalisations are folded first, which changes predictions by rounding and takes a third less time.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import InvalidImage
from services.trainer.coverage import require_known, unknown_categories
from services.trainer.engine.classification.fuse import fused
from services.trainer.engine.classification.measure import measure, predictions
from services.trainer.engine.data import Images, Indices, open_images
from services.trainer.engine.evaluation import delivered, indices_in, require_time
from services.trainer.engine.prefetch import prefetched
from services.trainer.engine.session import Session
from services.trainer.messages import EvaluateTask, EvaluationResult
from services.trainer.performance import Coverage, Source
from services.trainer.predictions import write_predictions
from services.vision.backbones import Network
from services.vision.classifier import BATCH_SIZE, Classifier, Prepared


def evaluate_classifier(task: EvaluateTask, session: Session, classifier: Classifier) -> EvaluationResult:
    """Categories are matched by name; images of a category that the model does not know are left out, and counted.

    Raises CategoriesUnknown if that is more than half of them, DatasetCorrupt for too many unreadable images,
    IncorrectModelKind for a detection snapshot.
    """
    images = open_images(Path(task.directory), task.dataset)
    for trunk in classifier.network.trunks:
        if isinstance(trunk, Network):
            trunk.features = fused(trunk).features
    names = tuple(category.name for category in classifier.card.categories)
    labels = indices_in(names, images.categories)[images.labels]
    known = np.flatnonzero(labels >= 0)
    coverage = _coverage(images, labels, names)
    scores = _predicted(classifier, images, known, task.threads, session)
    images.require_readable()
    sound = ~np.isnan(scores).any(axis=1)
    rows, scores = known[sound], scores[sound]
    path = Path(task.output_directory) / "predictions.msgpack"
    path.parent.mkdir(parents=True, exist_ok=True)
    logits = np.log(np.maximum(scores, 1e-12))
    write_predictions(path, predictions(names, images.ids[rows], labels[rows], logits))
    return delivered(measure(scores, labels[rows], names, Source.TEST_DATASET), coverage, images, session, path)


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


def _predicted(
    classifier: Classifier, images: Images, rows: NDArray[np.int64], threads: int, session: Session
) -> NDArray[np.float32]:
    """[rows, categories]; NaN for an image that cannot be read. Decodes ahead of the forward."""
    scores = np.full((len(rows), len(classifier.card.categories)), np.nan, np.float32)
    done = 0
    for batch in _prepared(classifier, images, rows, threads):
        sound = [offset for offset, prepared in enumerate(batch) if prepared is not None]
        inputs = [prepared for prepared in batch if prepared is not None]
        scores[[done + offset for offset in sound]] = classifier.predict_prepared(inputs)
        done += len(batch)
        session.progress("evaluate", done / len(rows))
        require_time(session, images, done / len(rows))
    return scores


def _prepared(
    classifier: Classifier, images: Images, rows: NDArray[np.int64], threads: int
) -> Iterator[list[Prepared | None]]:
    def prepare(index: int) -> Prepared | None:
        try:
            return classifier.prepare(images.read(index), images.samples[index].record.file_name)
        except (InvalidImage, ValueError, OSError) as fault:
            images.note_unreadable(index, fault)
            return None

    def batch_of(start: int) -> list[Prepared | None]:
        return [prepare(int(index)) for index in rows[start : start + BATCH_SIZE]]

    return prefetched(batch_of, range(0, len(rows), BATCH_SIZE), threads)
