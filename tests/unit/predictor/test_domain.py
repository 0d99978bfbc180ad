"""Queries and models: what is valid, and which bundle serves."""

import math

import pytest

from services.kit.errors import InvalidRequest, ModelNotReady
from services.predictor.domain import ImageQuery, ModelState
from tests.unit.predictor.support import info


def query(score_threshold: float | None = None, max_results: int | None = None) -> ImageQuery:
    return ImageQuery("models/m", b"", "", score_threshold, max_results)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf])
def test_a_threshold_outside_0_to_1_is_refused(threshold: float):
    with pytest.raises(InvalidRequest, match="score_threshold"):
        query(score_threshold=threshold).check()


@pytest.mark.parametrize("number", [-1, 0, 1001])
def test_a_number_of_results_outside_1_to_1000_is_refused(number: int):
    with pytest.raises(InvalidRequest, match="max_results"):
        query(max_results=number).check()


@pytest.mark.parametrize("state", ModelState)
def test_a_model_without_a_bundle_is_not_ready_and_the_error_names_its_state_and_a_remedy(state: ModelState):
    with pytest.raises(ModelNotReady) as refusal:
        info(version="", state=state).bundle()
    assert refusal.value.metadata["state"] == state.value
    assert refusal.value.metadata["remedy"]


@pytest.mark.parametrize("state", ModelState)
def test_a_model_with_a_bundle_is_served_in_every_state(state: ModelState):
    assert info(state=state).bundle().version == "v1"
