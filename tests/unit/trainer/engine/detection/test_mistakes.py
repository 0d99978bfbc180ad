"""The images in which a detector missed regions or found objects where there are none."""

import numpy as np

from services.trainer.engine.detection.data import open_scenes
from services.trainer.engine.detection.mistakes import worst_mistakes
from services.vision.detection_matching import DetectionTable
from tests.unit.trainer.engine.scenes import write_scenes


def test_missed_regions_and_false_objects_are_counted_at_the_thresholds(tmp_path):
    scenes = open_scenes(write_scenes(tmp_path / "scenes"), "datasets/scenes")
    rows = np.array([4, 2, 7])
    truth = scenes.truths(rows)
    sure = np.where(truth.images == 0, 0.9, 0.2)  # found in the first image only
    boxes, far = truth.boxes, truth.boxes[truth.images == 0] + 1000
    answers = DetectionTable(
        np.concatenate([truth.images, np.zeros(len(far), np.int64)]),
        np.concatenate([truth.categories, truth.categories[truth.images == 0]]),
        np.concatenate([boxes, far]),
        np.concatenate([sure, np.full(len(far), 0.8)]),
    )
    found = {one.image_id: one for one in worst_mistakes(scenes, rows, answers, (0.5,) * len(scenes.categories))}
    ids = [scenes.samples[row].record.image_id for row in rows]
    counts = np.bincount(truth.images, minlength=3)
    assert (found[ids[0]].missed, found[ids[0]].false) == (0, counts[0])
    assert (found[ids[1]].missed, found[ids[1]].false) == (counts[1], 0)
    assert found[ids[1]].file_name == scenes.samples[rows[1]].record.file_name
    worst = list(found.values())
    assert worst == sorted(worst, key=lambda one: -(one.missed + one.false))
    everything = DetectionTable(truth.images, truth.categories, truth.boxes, np.ones(len(boxes)))
    assert worst_mistakes(scenes, rows, everything, (0.5,) * len(scenes.categories)) == ()
