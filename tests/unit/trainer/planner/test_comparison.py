"""Predictions of detectors, and how two of them are compared: on the same images, by mAP, with a standard error."""

import msgspec
import numpy as np
import pytest

from services.trainer import predictions as files
from services.trainer.planner.comparison import paired_gain
from services.trainer.predictions import DetectorPredictions, found, image_ids, read_predictions, write_predictions
from services.vision.detection_matching import DetectionTable, GroundTruth, match
from tests.unit.trainer.support import detections, predictions


def of_images(whole: DetectorPredictions, kept: list[int]) -> DetectorPredictions:
    """The predictions for some of the images, with their ids."""
    order = np.array(sorted(kept))
    asked, seen = (np.isin(column.images.array(), order) for column in (whole.truths, whole.found))
    truths, kept_found = whole.truths, whole.found
    return msgspec.structs.replace(
        whole,
        image_ids=image_ids(order),
        truths=files.truths(
            np.searchsorted(order, truths.images.array()[asked]),
            truths.labels.array()[asked],
            truths.boxes.array()[asked],
            truths.crowds.array()[asked],
        ),
        found=found(
            np.searchsorted(order, kept_found.images.array()[seen]),
            kept_found.labels.array()[seen],
            kept_found.boxes.array()[seen],
            kept_found.scores.array()[seen],
        ),
    )


def test_the_tag_of_a_file_tells_its_kind(tmp_path):
    for written in (detections(30), predictions(30), detections(0, 0)):
        write_predictions(tmp_path / "p", written)
        assert read_predictions((tmp_path / "p").read_bytes()) == written


def test_rows_are_sorted_by_image_and_descending_score():
    rows = found(np.array([1, 0, 1]), np.array([0, 1, 2]), np.arange(12).reshape(3, 4), np.array([0.2, 0.5, 0.9]))
    assert rows.images.array().tolist() == [0, 1, 1]
    assert rows.labels.array().tolist() == [1, 2, 0]
    assert rows.boxes.array()[0].tolist() == [4, 5, 6, 7]


def test_of_too_many_detections_those_with_the_highest_scores_are_kept(monkeypatch):
    monkeypatch.setattr(files, "MAX_DETECTIONS", 2)
    rows = found(np.array([0, 0, 1]), np.zeros(3), np.zeros((3, 4)), np.array([0.9, 0.1, 0.5]))
    assert rows.scores.array().tolist() == pytest.approx([0.9, 0.5])
    assert rows.images.array().tolist() == [0, 1]


def test_a_gain_is_the_difference_in_mean_average_precision():
    old, new = detections(40), detections(80)
    gain, error, count = paired_gain(old, new)
    values: list[float] = []
    for each in (old, new):
        t, f = each.truths, each.found
        truths = GroundTruth(t.images.array(), t.labels.array(), t.boxes.array(), t.crowds.array())
        seen = DetectionTable(f.images.array(), f.labels.array(), f.boxes.array(), f.scores.array())
        values.append(match(truths, seen, 100, 2, (0.5,))[0].mean_average_precision())
    assert gain == pytest.approx(values[1] - values[0])
    assert count == 100
    assert 0.02 < error < 0.1
    back, error_back, _ = paired_gain(new, old)
    assert (back, error_back) == (pytest.approx(-gain), pytest.approx(error))


def test_boxes_that_fit_more_closely_are_a_gain_though_all_regions_are_found() -> None:
    exact = detections(100)
    boxes = exact.found.boxes.array().copy()
    boxes[:, 2] *= 0.6  # an overlap of 0.6
    seen = exact.found
    loose = msgspec.structs.replace(
        exact, found=found(seen.images.array(), seen.labels.array(), boxes, seen.scores.array())
    )
    gain, error, _ = paired_gain(loose, exact)
    assert gain == pytest.approx(0.5)
    assert error < 0.1


def test_equal_predictions_gain_nothing_but_not_with_certainty():
    gain, error, count = paired_gain(detections(50), detections(50))
    assert (gain, error, count) == (0.0, 0.5 / 100, 100)


def test_only_images_that_both_predicted_count():
    old, new = of_images(detections(40), list(range(60))), of_images(detections(80), list(range(50, 100)))
    gain, _, count = paired_gain(old, new)
    assert count == 10
    assert gain == pytest.approx(1.0)  # in images 50 to 59 the old one finds nothing and the new one everything


def test_without_common_images_or_regions_the_gain_is_unknown():
    assert paired_gain(of_images(detections(9), [1, 2]), of_images(detections(9), [3])) == (0.0, float("inf"), 0)
    assert paired_gain(detections(0, 0), detections(9)) == (0.0, float("inf"), 0)


def test_a_classifier_is_not_compared_with_a_detector():
    with pytest.raises(ValueError, match="cannot be compared"):
        paired_gain(predictions(9), detections(9))
