"""The worst mistakes: wrong images only, the most confident first, with their names."""

import numpy as np
import pytest

from services.trainer.engine.classification.mistakes import worst_mistakes
from services.trainer.engine.data import open_images
from services.trainer.insight import MAX_MISTAKES
from tests.unit.trainer.engine.shapes import SHAPES, write_snapshot


def test_the_most_confident_mistakes_come_first_and_name_their_files(tmp_path):
    images = open_images(write_snapshot(tmp_path / "snapshot"), "datasets/shapes")
    rows = np.array([5, 3, 8, 0])  # labels 2, 0, 2, 0
    logits = np.array([[2, 0, 0], [9, 0, 0], [0, 5, 0], [0, 1, 0]], np.float32)
    found = worst_mistakes(images, rows, logits)
    assert [one.file_name for one in found] == ["9.png", "6.png", "1.png"]
    worst = found[0]
    assert (worst.image_id, worst.true_category, worst.predicted_category) == (9, "cross", "square")
    expected = np.exp(5) / (np.exp(5) + 2)
    assert worst.probability == pytest.approx(expected, rel=1e-4)
    assert worst.log_loss == pytest.approx(5 - np.log(expected), abs=0.1)
    assert (found[1].log_loss or 0) > (found[2].log_loss or 0) > 0


def test_there_are_at_most_fifty_and_none_without_a_mistake(tmp_path):
    images = open_images(write_snapshot(tmp_path / "snapshot", per_category=30), "datasets/shapes")
    rows = np.arange(90)
    right = np.eye(len(SHAPES), dtype=np.float32)[images.labels]
    assert worst_mistakes(images, rows, right) == ()
    assert len(worst_mistakes(images, rows, -right)) == MAX_MISTAKES
