"""Results: thresholds, order, and boxes in whole pixels."""

import itertools

import numpy as np
import pytest

from services.predictor.domain import ImageQuery
from services.predictor.results import Objects, PixelBox, Tag, Tags, result_of, whole_pixels
from services.vision.card import ModelCard
from services.vision.image_detections import ImageDetections
from tests.unit.predictor.support import card, detector_card

ROW = np.array([0.25, 0.5, 0.25], np.float32)
DETECTIONS = ImageDetections(
    boxes=np.array([[10.4, 20.6, 30.2, 40.2], [0, 0, 100, 80], [50, 60, 7, 8]], np.float32),
    scores=np.array([0.75, 0.5, 0.25], np.float32),
    labels=np.array([2, 0, 2]),
)


def query(
    score_threshold: float | None = None, max_results: int | None = None, *, suggested: bool = False
) -> ImageQuery:
    return ImageQuery("models/m", b"", "", score_threshold, max_results, suggested)


def names(card: ModelCard, output: np.ndarray | ImageDetections, query: ImageQuery) -> list[str]:
    result = result_of(card, output, 100, 80, query)
    return [one.name if isinstance(one, Tag) else one.tag.name for one in result.values]


def test_tags_are_sorted_by_confidence_and_ties_are_in_the_models_order():
    expected = Tags((Tag("dog", 0.5), Tag("cat", 0.25), Tag("owl", 0.25)))
    assert result_of(card(), ROW, 9, 9, query()) == expected


def test_a_classifier_always_returns_its_decision_first_whatever_its_card_suggests():
    assert names(card(thresholds=(0.2, 0.6, 0.3)), ROW, query()) == ["dog", "cat", "owl"]
    assert names(card(thresholds=(0.9, 0.9, 0.9)), ROW, query(max_results=1)) == ["dog"]


def test_the_suggested_thresholds_of_a_classifier_apply_on_request():
    strict = card(thresholds=(0.25, 0.6, 0.3))
    assert names(strict, ROW, query(suggested=True)) == ["cat"], "reaching the threshold suffices"
    assert names(card(), ROW, query(suggested=True)) == ["dog", "cat", "owl"], "it suggests none"


def test_a_threshold_in_the_query_applies_to_every_tag():
    strict = card(thresholds=(0.2, 0.6, 0.3))
    assert names(strict, ROW, query(score_threshold=0.0)) == ["dog", "cat", "owl"]
    assert names(strict, ROW, query(score_threshold=0.5)) == ["dog"], "reaching the threshold suffices"


def test_there_are_no_more_tags_than_requested():
    assert names(card(), ROW, query(max_results=2)) == ["dog", "cat"]


def test_objects_are_sorted_by_confidence_each_with_its_box_and_tag():
    result = result_of(detector_card(thresholds=(0.1, 0.1, 0.1)), DETECTIONS, 100, 80, query())
    assert isinstance(result, Objects)
    assert [(one.tag.name, one.tag.confidence) for one in result.values] == [("owl", 0.75), ("cat", 0.5), ("owl", 0.25)]
    assert [one.box for one in result.values] == [
        PixelBox(10, 21, 31, 40),
        PixelBox(0, 0, 100, 80),
        PixelBox(50, 60, 7, 8),
    ]


def test_each_object_must_reach_the_threshold_of_its_category():
    strict = detector_card(thresholds=(0.6, 0.1, 0.2))
    assert names(strict, DETECTIONS, query()) == ["owl", "owl"]
    assert names(strict, DETECTIONS, query(suggested=True)) == ["owl", "owl"], "this is the default"
    assert names(strict, DETECTIONS, query(score_threshold=0.5)) == ["owl", "cat"], "reaching the threshold suffices"
    assert names(detector_card(), DETECTIONS, query(max_results=1)) == ["owl"]


def test_a_detector_without_its_own_thresholds_does_not_return_every_box():
    faint = ImageDetections(DETECTIONS.boxes, np.array([0.75, 0.5, 0.02], np.float32), DETECTIONS.labels)
    assert names(detector_card(), faint, query()) == ["owl", "cat"]
    assert names(detector_card(), faint, query(score_threshold=0.0)) == ["owl", "cat", "owl"]


def test_no_objects_are_an_empty_result_of_the_same_kind():
    nothing = ImageDetections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    assert result_of(detector_card(), nothing, 100, 80, query()) == Objects(())


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.4, 0.6, 1.2, 1.2), PixelBox(0, 1, 2, 1)),
        ((10.1, 10.1, 0.2, 0.2), PixelBox(10, 10, 1, 1)),
        ((99.9, 79.9, 0.1, 0.1), PixelBox(99, 79, 1, 1)),
        ((99.4, 0.0, 0.6, 80.0), PixelBox(99, 0, 1, 80)),
        ((0.0, 0.0, 100.0, 80.0), PixelBox(0, 0, 100, 80)),
    ],
)
def test_a_box_in_whole_pixels_has_a_positive_size_and_lies_in_the_image(box: tuple[float, ...], expected: PixelBox):
    assert whole_pixels(np.array([box], np.float32), 100, 80) == [expected]


def test_adjacent_boxes_stay_adjacent():
    edges = np.cumsum(np.random.default_rng(1).uniform(1, 9, 20))
    boxes = np.array([[left, 0, right - left, 9] for left, right in itertools.pairwise(edges)], np.float32)
    whole = whole_pixels(boxes, 500, 10)
    assert all(one.x + one.w == other.x for one, other in itertools.pairwise(whole))
