"""An evaluation of a detector: its answers for a snapshot, by the code that serves, into the contract's numbers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from services.kit.errors import DatasetAnnotationsInvalid, InvalidImage
from services.trainer.engine.ahead import made_ahead
from services.trainer.engine.data import Indices
from services.trainer.engine.detection import measure
from services.trainer.engine.detection.data import Scenes, open_scenes
from services.trainer.engine.evaluation import require_time
from services.trainer.engine.session import Session
from services.trainer.performance import Source
from services.trainer.predictions import write_predictions
from services.trainer.protocol import EvaluateTask, EvaluationResult, Started
from services.vision.detection_matching import GroundTruth
from services.vision.detections import Detections
from services.vision.detector import Detector, Prepared

PIECE = 16  # images that are predicted together; those of one shape share a forward pass


def evaluate_detector(task: EvaluateTask, session: Session, detector: Detector) -> EvaluationResult:
    """Categories are matched by name; regions of a category that the model does not know are dropped, and counted.

    Raises DatasetAnnotationsInvalid without a common category, DatasetCorrupt for too many unreadable images,
    IncorrectModelKind for a classification snapshot.
    """
    scenes = open_scenes(Path(task.directory), task.dataset)
    session.send(Started(image_count=len(scenes.samples), seconds_used=session.meter.used()))
    names = tuple(category.name for category in detector.card.categories)
    of_model = _matched(scenes, names)
    answers = _predicted(detector, scenes, task.threads, session)
    scenes.require_readable()
    rows = np.flatnonzero(scenes.sound())
    truth, dropped = _known(scenes.truths(rows), of_model)
    found = measure.detected(measure.columns([answers[row] for row in rows.tolist()]))
    path = Path(task.output_directory) / "predictions.msgpack"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(path, measure.predictions(names, scenes.ids[rows], truth, found))
    return EvaluationResult(
        performance=measure.measure(truth, found, len(rows), names, Source.TEST_DATASET),
        seconds=session.meter.used(),
        predictions_path=str(path),
        unreadable=scenes.unreadable_files(),
        warnings=_warnings(scenes, of_model, dropped),
    )


def _matched(scenes: Scenes, names: tuple[str, ...]) -> Indices:
    """For each of the dataset's categories the model's of the same name, -1 where it has none."""
    position = {name: index for index, name in enumerate(names)}
    matched = np.array([position.get(name, -1) for name in scenes.categories], np.int64)
    if not (scenes.image_counts()[matched >= 0] > 0).any():
        theirs, ours = ", ".join(scenes.categories[:10]), ", ".join(names[:10])
        problem = f"none of its regions has a category of the model's: it has {theirs}; the model knows {ours}"
        raise DatasetAnnotationsInvalid(file=scenes.dataset, problem=problem)
    return matched


def _known(truth: GroundTruth, of_model: Indices) -> tuple[GroundTruth, int]:
    """The regions of the model's categories, by its own indices, and how many others there were."""
    categories = of_model[truth.categories]
    kept = categories >= 0
    known = GroundTruth(truth.images[kept], categories[kept], truth.boxes[kept], truth.crowds[kept])
    return known, int((~kept).sum())


def _predicted(detector: Detector, scenes: Scenes, threads: int, session: Session) -> dict[int, Detections]:
    """By row; nothing for an image that cannot be read. Decodes ahead of the forward pass."""
    answers: dict[int, Detections] = {}
    done, count = 0, len(scenes.samples)
    for size, rows, prepared in _prepared(detector, scenes, threads):
        answers.update(zip(rows, detector.predict_prepared(prepared), strict=True))
        done += size
        session.progress("evaluate", done / count)
        require_time(session, scenes, done / count)
    return answers


def _prepared(detector: Detector, scenes: Scenes, threads: int) -> Iterator[tuple[int, list[int], list[Prepared]]]:
    """Of each piece its size, the rows that could be read, and their inputs."""

    def prepare(rows: range) -> tuple[int, list[int], list[Prepared]]:
        sound: list[int] = []
        made: list[Prepared] = []
        for row in rows:
            name = scenes.samples[row].record.file_name
            try:
                made.append(detector.prepare(scenes.read(row), name))
                sound.append(row)
            except (InvalidImage, ValueError, OSError) as fault:
                scenes.unreadable[row] = f"{name} ({fault})"
        return len(rows), sound, made

    count = len(scenes.samples)
    return made_ahead(prepare, [range(i, min(count, i + PIECE)) for i in range(0, count, PIECE)], threads)


def _warnings(scenes: Scenes, of_model: Indices, dropped: int) -> tuple[str, ...]:
    unknown = [name for name, index in zip(scenes.categories, of_model, strict=True) if index < 0]
    warnings: list[str] = []
    if unknown:
        names = ", ".join(unknown[:10])
        warnings.append(f"{dropped} regions are of categories that the model does not know: {names}.")
    if scenes.unreadable:
        warnings.append(f"{len(scenes.unreadable)} images cannot be read: {', '.join(scenes.unreadable_files()[:5])}.")
    return tuple(warnings)
