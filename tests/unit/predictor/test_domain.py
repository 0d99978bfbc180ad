import math

import numpy as np
import pytest

from services.kit.errors import InvalidRequest, ModelNotReady, NotServedYet
from services.predictor.domain import ImageQuery, ModelKind, ModelState, Tag, rank
from tests.unit.predictor.support import card, info

ROW = np.array([0.25, 0.5, 0.25], np.float32)


def query(score_threshold: float | None = None, max_results: int | None = None) -> ImageQuery:
    return ImageQuery("models/m", b"", "", score_threshold, max_results)


def names(tags: tuple[Tag, ...]) -> list[str]:
    return [tag.name for tag in tags]


def test_tags_come_by_falling_confidence_and_ties_in_the_models_order():
    assert rank(card(), ROW, query()) == (Tag("dog", 0.5), Tag("cat", 0.25), Tag("owl", 0.25))


def test_the_cards_thresholds_count_unless_the_query_has_its_own():
    strict = card(thresholds=(0.2, 0.6, 0.3))
    assert names(rank(strict, ROW, query())) == ["cat"]
    assert names(rank(strict, ROW, query(score_threshold=0.0))) == ["dog", "cat", "owl"]
    assert names(rank(strict, ROW, query(score_threshold=0.5))) == ["dog"], "a threshold that is reached is enough"


def test_no_more_tags_than_asked_for():
    assert names(rank(card(), ROW, query(max_results=2))) == ["dog", "cat"]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf])
def test_a_threshold_outside_0_to_1_is_refused(threshold: float):
    with pytest.raises(InvalidRequest, match="score_threshold"):
        query(score_threshold=threshold).check()


@pytest.mark.parametrize("number", [-1, 0, 1001])
def test_a_number_of_results_outside_1_to_1000_is_refused(number: int):
    with pytest.raises(InvalidRequest, match="max_results"):
        query(max_results=number).check()


@pytest.mark.parametrize("state", ModelState)
def test_a_model_without_a_bundle_is_not_ready_and_says_its_state_and_what_to_do(state: ModelState):
    with pytest.raises(ModelNotReady) as refusal:
        info(version="", state=state).bundle()
    assert refusal.value.metadata["state"] == state.value
    assert refusal.value.metadata["remedy"]


@pytest.mark.parametrize("state", ModelState)
def test_a_model_with_a_bundle_is_served_in_every_state(state: ModelState):
    assert info(state=state).bundle().version == "v1"


def test_a_detector_is_refused_clearly():
    with pytest.raises(NotServedYet, match="models/m is a detector"):
        info(kind=ModelKind.DETECTOR).bundle()
