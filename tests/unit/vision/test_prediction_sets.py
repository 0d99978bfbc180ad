"""Prediction sets: the quantile, its floor of images, and the coverage that results."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.vision import prediction_sets
from services.vision.prediction_sets import Calibration, images_needed, members


def calibration(true: NDArray[np.floating]) -> Calibration:
    """From the true categories' probabilities."""
    return Calibration.of(true.tolist())


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=300), st.floats(0.01, 0.99))
def test_at_least_the_coverage_of_images_plus_one_reaches_the_threshold(true: list[float], coverage: float) -> None:
    found = calibration(np.array(true, np.float32)).threshold(coverage)
    if found is None:
        assert len(true) < coverage * (len(true) + 1)
    else:
        reach = sum(value >= found for value in true)
        assert reach >= coverage * (len(true) + 1) - 1e-6
        above = sum(value > found for value in true)
        assert above < coverage * (len(true) + 1), "a higher threshold would do too"


@given(st.integers(1, 3000), st.floats(0.01, 0.99))
def test_as_many_images_as_needed_are_enough_and_one_fewer_is_not(count: int, coverage: float) -> None:
    true = np.linspace(0, 1, count, dtype=np.float32)
    enough = count >= images_needed(coverage)
    assert (calibration(true).threshold(coverage) is not None) is enough


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999)])
def test_the_images_needed_are_one_less_than_the_reciprocal_of_the_rest(coverage: float, needed: int) -> None:
    assert images_needed(coverage) == needed


@given(st.integers(1001, 20_000), st.floats(0.05, 0.99), st.integers(0, 100))
def test_a_shortened_calibration_gives_a_threshold_slightly_too_low_never_too_high(
    count: int, coverage: float, seed: int
) -> None:
    true = np.random.default_rng(seed).permutation(count).astype(np.float32) / count
    short = calibration(true)
    assert len(short.probabilities) == prediction_sets.KEPT
    assert short.image_count == count
    found = short.threshold(coverage)
    assert found is not None
    rank = int(np.ceil(round(coverage * (count + 1), 9)))
    exact = np.sort(true)[::-1][rank - 1]
    assert exact - 2 / prediction_sets.KEPT <= found <= exact


def test_sets_of_a_badly_calibrated_model_contain_the_true_category_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    coverage, covered = 0.8, list[bool]()
    for _ in range(400):
        logits = random.normal(size=(42, 5)).astype(np.float32)
        labels = np.array([random.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in logits.astype(float)])
        sure = np.exp(4 * logits)
        sure /= sure.sum(axis=1, keepdims=True)  # far too confident
        threshold = calibration(sure[np.arange(39), labels[:39]]).threshold(coverage)
        assert threshold is not None
        covered += [
            label in members(row.tolist(), threshold) for row, label in zip(sure[39:], labels[39:], strict=True)
        ]
    assert np.mean(covered) == pytest.approx(coverage, abs=0.03)  # 32 of 40: exactly 0.8 in the mean


def test_the_most_probable_category_is_always_in_the_set_and_first() -> None:
    row = [0.2, 0.5, 0.3]
    assert members(row, 0.9) == [1]
    assert members(row, 0.3) == [1, 2]
    assert members(row, 0.0) == [1, 2, 0]
