"""The images in which a detector missed regions, or found objects where there are none."""

from collections.abc import Sequence

import numpy as np

from services.trainer.engine.data import Indices
from services.trainer.engine.detection.data import Scenes
from services.trainer.insight import MAX_MISTAKES, Mistake
from services.vision.detection_matching import DetectionTable, match

IOU_THRESHOLD = 0.50


def worst_mistakes(
    scenes: Scenes, rows: Indices, answers: DetectionTable, thresholds: Sequence[float]
) -> tuple[Mistake, ...]:
    """Of these images: those with the most missed regions and false objects, at the categories' thresholds."""
    kept = answers.scores >= np.array(thresholds, np.float32)[answers.categories]
    shown = DetectionTable(answers.images[kept], answers.categories[kept], answers.boxes[kept], answers.scores[kept])
    (matched,) = match(scenes.truths(rows), shown, len(rows), len(scenes.categories), (IOU_THRESHOLD,))
    wanted = np.bincount(matched.asked.images, weights=matched.asked.counts, minlength=len(rows)).astype(np.int64)
    found = np.bincount(matched.images, minlength=len(rows))
    right = np.bincount(matched.images[matched.hits], minlength=len(rows))
    missed, false = wanted - right, found - right
    worst = np.argsort(-(missed + false), kind="stable")[:MAX_MISTAKES]
    return tuple(
        Mistake(
            image_id=scenes.samples[rows[row]].record.image_id,
            file_name=scenes.samples[rows[row]].record.file_name,
            missed=int(missed[row]),
            false=int(false[row]),
        )
        for row in worst.tolist()
        if missed[row] + false[row]
    )
