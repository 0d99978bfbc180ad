"""How unsure a model was, and which images to label first."""

import numpy as np
import pytest

from services.predictor.domain import RawOutput
from services.predictor.suggestions import by_answers, by_looks, confidence_of, ranked, uncertainty_of
from services.vision.image_detections import ImageDetections
from tests.unit.predictor.support import card, detector_card

SAME, OTHER = bytes(32), bytes([255] * 16 + [0] * 16)


def detections(*scores: float) -> ImageDetections:
    count = len(scores)
    boxes = np.array([[0, 0, 10, 10]] * count, np.float32).reshape(count, 4)
    return ImageDetections(boxes, np.array(scores, np.float32), np.zeros(count, np.int64))


@pytest.mark.parametrize(
    ("output", "confidence", "uncertainty"),
    [
        (np.array([0.5, 0.3, 0.2], np.float32), 0.5, 0.8),
        (np.array([0.5, 0.5, 0.0], np.float32), 0.5, 1.0),
        (np.array([0.0, 1.0, 0.0], np.float32), 1.0, 0.0),
        (np.array([0.7], np.float32), 0.7, 0.3),
        (detections(), 1.0, 0.0),
        (detections(0.9, 0.1), 0.9, 0.1),
        (detections(0.9, 0.35), 0.65, 0.35),  # a box that is nearly there
        (detections(0.45, 0.1), 0.45, 0.55),  # a box that is hardly there
    ],
)
def test_confidence_is_that_of_the_least_certain_decision(output: RawOutput, confidence: float, uncertainty: float):
    made = detector_card(thresholds=(0.4,) * 3) if isinstance(output, ImageDetections) else card()
    assert confidence_of(made, output) == pytest.approx(confidence)
    assert uncertainty_of(made, output) == pytest.approx(uncertainty)


def test_the_most_uncertain_image_is_first_and_one_like_it_last():
    assert ranked([0.9, 0.95, 0.5], by_looks([SAME, SAME, OTHER]), 3) == [1, 2, 0]
    answers = np.array([[0.6, 0.4, 0], [0.5, 0.5, 0], [0, 0.4, 0.6]])
    assert ranked([0.8, 1.0, 0.8], by_answers(answers), 3) == [1, 2, 0]


def test_of_images_that_differ_alike_the_more_uncertain_one_is_first():
    looks = [bytes([1 << number] * 32) for number in range(4)]
    assert ranked([0.2, 0.9, 0.4, 0.6], by_looks(looks), 3) == [1, 3, 2]


def test_no_image_is_chosen_twice_even_if_all_look_the_same_and_none_is_uncertain():
    assert sorted(ranked([0.0] * 5, by_looks([SAME] * 5), 10)) == [0, 1, 2, 3, 4]
    assert ranked([0.1, 0.3, 0.2], by_looks([SAME] * 3), 3) == [1, 2, 0]
    assert ranked([], by_looks([]), 10) == []


def test_images_of_one_colour_which_have_no_hash_count_as_alike():
    assert ranked([0.5, 0.6, 0.4], by_looks([b"", b"", OTHER]), 3) == [1, 2, 0]


def test_distances_are_0_for_equals_and_1_for_opposites():
    assert by_answers(np.array([[1.0, 0.0], [0.0, 1.0]]))(0).tolist() == [0, 1]
    assert by_looks([bytes(32), bytes([255] * 32)])(0).tolist() == [0, 1]
