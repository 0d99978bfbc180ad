"""Which of two models is better, by a paired test on the images that both predicted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

from services.trainer.planner.significance import (
    Significance,
    paired_interval,
    paired_p_value,
    significance,
    two_sided,
)
from services.trainer.predictions import AnyPredictions, Column, Predictions, read_outcomes
from tests.unit.trainer.planner.test_comparison import of_images
from tests.unit.trainer.support import detections, predictions

Z = 1.959964


def known(first: AnyPredictions, second: AnyPredictions) -> Significance:
    """The test of what is read back from files; there is one."""
    found = significance(*(read_outcomes(msgspec.msgpack.encode(each)) for each in (first, second)))
    assert found is not None
    return found


def classified(correct: list[bool], first_id: int = 0) -> Predictions:
    """Predictions of consecutive images, of which these are right."""
    return msgspec.structs.replace(
        predictions(0, len(correct)),
        image_ids=tuple(range(first_id, first_id + len(correct))),
        correct=tuple(correct),
    )


def outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[Predictions, Predictions]:
    """Two classifiers with so many images of each outcome."""
    counts = (both, only_first, only_second, neither)
    rights = [right for right, count in zip((True, True, False, False), counts, strict=True) for _ in range(count)]
    others = [right for right, count in zip((True, False, True, False), counts, strict=True) for _ in range(count)]
    return classified(rights), classified(others)


def score(only_first: int, only_second: int, count: int, difference: float) -> float:
    """The statistic at a difference, with the shares that are most likely under it found by search."""

    def unlikelihood(share: float) -> float:
        other, rest = share + difference, 1 - 2 * share - difference
        terms = ((only_first, share), (only_second, other), (count - only_first - only_second, rest))
        return -sum(times * math.log(max(value, 1e-300)) for times, value in terms if times)

    bounds = max(0.0, -difference), (1 - difference) / 2
    found: Any = minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    share = float(found.x)
    variance = count * (2 * share + difference - difference**2)
    excess = only_second - only_first - count * difference
    return (excess - math.copysign(0.5, excess)) / math.sqrt(variance)


def test_the_test_is_mcnemars_and_the_values_are_those_of_the_common_images() -> None:
    found = known(*outcomes(80, 4, 13, 3))
    assert (found.metric, found.image_count, found.left_out_images) == ("accuracy_top1", 100, 0)
    assert (found.first, found.second, found.difference) == (0.84, 0.93, pytest.approx(0.09))
    assert (found.both, found.only_first, found.only_second) == (80, 4, 13)
    assert found.p_value == pytest.approx(chi2.sf((13 - 4 - 0.5) ** 2 / (13 + 4), 1))


@pytest.mark.parametrize(("only_first", "only_second", "count"), [(4, 13, 100), (1, 7, 9), (0, 5, 44), (30, 30, 500)])
def test_the_interval_ends_where_the_most_likely_shares_are_just_not_rejected(
    only_first: int, only_second: int, count: int
) -> None:
    found = paired_interval(only_first, only_second, count)
    assert score(only_first, only_second, count, found.low) == pytest.approx(Z, abs=1e-3)
    assert score(only_first, only_second, count, found.high) == pytest.approx(-Z, abs=1e-3)


@given(st.integers(1, 300), st.data())
def test_zero_is_in_the_interval_exactly_if_the_test_does_not_reject_it(count: int, data: st.DataObject) -> None:
    only_first = data.draw(st.integers(0, count))
    only_second = data.draw(st.integers(0, count - only_first))
    found = known(*outcomes(count - only_first - only_second, only_first, only_second, 0))
    assert -1 <= found.interval.low <= found.difference <= found.interval.high <= 1
    assert (found.interval.low <= 0 <= found.interval.high) == (found.p_value >= two_sided(Z))
    mirrored = known(*outcomes(count - only_first - only_second, only_second, only_first, 0))
    assert mirrored.interval.low == pytest.approx(-found.interval.high, abs=1e-9)
    assert mirrored.p_value == pytest.approx(found.p_value)


def test_models_that_are_right_on_the_same_images_do_not_differ_and_more_images_say_so_more_surely() -> None:
    few, many = (known(*outcomes(count, 0, 0, count)) for count in (10, 1000))
    assert few.p_value == many.p_value == 1
    assert few.interval.high > 0.15
    assert 0 < many.interval.high < 0.01


def test_of_models_of_equal_quality_one_in_twenty_pairs_is_told_apart() -> None:
    random, told = np.random.default_rng(3), 0
    for _ in range(2000):
        disagree = random.binomial(120, 0.15)
        only_first = int(random.binomial(disagree, 0.5))
        told += paired_p_value(only_first, int(disagree) - only_first, 120) < 0.05
    assert 0.02 < told / 2000 < 0.055


def test_a_handful_of_images_decides_nothing() -> None:
    assert paired_p_value(0, 4, 60) > 0.05 > paired_p_value(0, 5, 60)
    assert paired_p_value(0, 1, 60) > 0.5


def test_images_that_only_one_predicted_do_not_count() -> None:
    found = known(classified([True] * 10), classified([True] * 4 + [False] * 4, first_id=6))
    assert (found.image_count, found.left_out_images, found.first, found.second) == (4, 10, 1, 1)
    assert significance(classified([True]), classified([True], first_id=5)) is None


def test_detectors_are_compared_by_their_mean_average_precision() -> None:
    found = known(detections(40), detections(80))
    assert found.metric == "mean_average_precision_50"
    assert found.second > found.first
    assert found.interval.low > 0
    assert found.p_value < 1e-6
    assert (found.image_count, found.only_first, found.left_out_categories) == (100, None, ())
    mirrored = known(detections(80), detections(40))
    assert (mirrored.difference, mirrored.p_value) == (pytest.approx(-found.difference), pytest.approx(found.p_value))


def test_a_detector_does_not_differ_from_itself_and_a_few_images_give_no_certainty() -> None:
    same = known(detections(80), detections(80))
    assert (same.difference, same.p_value) == (0, 1)
    assert same.interval.low == -same.interval.high != 0
    for count, certain in ((1, False), (3, False), (10, True)):
        found = known(*(of_images(each, list(range(50, 50 + count))) for each in (detections(40), detections(80))))
        assert found.difference == 1
        assert (found.p_value < 0.05) == (found.interval.low > 0) == certain


def test_only_images_and_categories_that_both_know_count() -> None:
    first, second = of_images(detections(100), list(range(60))), of_images(detections(50), list(range(40, 100)))
    renamed = msgspec.structs.replace(second, categories=("wren", "hawk"))
    found = known(first, renamed)
    assert (found.image_count, found.left_out_images) == (20, 80)
    assert found.left_out_categories == ("hawk", "owl")
    # The second's label 0, of even images, is now "wren", which the first has in odd ones.
    assert found.second < found.first == 1
    strangers = msgspec.structs.replace(second, categories=("a", "b"))
    assert significance(first, strangers) is None
    assert significance(first, of_images(detections(50), [99])) is None


def test_a_category_has_another_number_in_the_other_model_and_is_still_the_same() -> None:
    first, second = detections(40), detections(80)
    labels = second.found.labels.array()
    turned = msgspec.structs.replace(
        second,
        categories=("wren", "owl"),
        truths=msgspec.structs.replace(second.truths, labels=Column.of(1 - second.truths.labels.array(), "<i4")),
        found=msgspec.structs.replace(second.found, labels=Column.of(1 - labels, "<i4")),
    )
    assert replace(known(first, turned), p_value=0) == replace(known(first, second), p_value=0)


def test_without_a_region_there_is_nothing_to_compare() -> None:
    empty = detections(0, 0)
    no_regions = msgspec.structs.replace(empty, image_ids=detections(1).image_ids)
    assert significance(empty, empty) is None
    assert significance(no_regions, no_regions) is None


def test_a_classifier_is_not_compared_with_a_detector() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        significance(predictions(10), detections(10))
