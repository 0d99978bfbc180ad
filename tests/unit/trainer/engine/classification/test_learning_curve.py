"""What more images are worth: the curve, its gains, and when there is none."""

import numpy as np
import pytest

from services.trainer.engine.classification import learning_curve as curves
from services.trainer.engine.classification import power_law
from services.trainer.engine.classification.category_gains import by_category
from services.trainer.engine.classification.learning_curve import learning_curve, usable_fractions
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.split import divide
from services.trainer.insight import LearningCurve
from services.trainer.recipe import Split

NAMES = ("hard", "easy", "plain", "other")


def features(per_category: int, seed: int = 0, spread: tuple[float, ...] = (1.0,) * 4) -> tuple[Floats, Indices]:
    """Categories around random centres; the wider a category is spread, the more images it takes to learn it."""
    random = np.random.default_rng(seed)
    labels = np.arange(per_category * len(spread)) % len(spread)
    centres = np.random.default_rng(99).normal(size=(len(spread), 60))
    noise = random.normal(size=(len(labels), 60)) * np.array(spread)[labels][:, None] * 2.4
    return (centres[labels] + noise).astype(np.float32), labels


def curve_of(rows: Floats, labels: Indices, seed: int = 0) -> LearningCurve:
    partition = divide(labels, Split(seed=seed))
    names = NAMES[: labels.max() + 1]
    return learning_curve([rows], labels, partition.fold, partition.folds, names, seed, lambda: False)


def test_with_very_many_categories_and_images_there_is_a_curve_without_their_gains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.trainer.engine.classification.learning_curve.MAX_CELLS", 200)
    curve = curve_of(*features(20))
    assert curve.points
    assert not curve.categories


@pytest.mark.parametrize(("a", "b", "c"), [(0.95, 0.6, 0.5), (0.8, 0.9, 1.0), (1.0, 0.5, 0.3)])
def test_a_power_law_without_noise_is_found_again_and_extrapolated(a: float, b: float, c: float) -> None:
    sizes = np.array([40, 28, 20, 14, 10, 7], np.float64)
    found = power_law.fit(sizes, (a - b * sizes**-c)[None], noise=1e-5)
    assert found.c[0] == pytest.approx(c, rel=0.1)
    assert found.at(80)[0] == pytest.approx(a - b * 80**-c, abs=0.01)


def test_a_power_law_neither_falls_nor_exceeds_one() -> None:
    sizes = np.array([40, 20, 10], np.float64)
    values = np.array([[0.5, 0.6, 0.7], [1.0, 0.9, 0.6], [1.0, 1.0, 1.0]])  # falling, steep, perfect
    found = power_law.fit(sizes, values)
    assert (found.b >= 0).all()
    assert (found.at(1e6) <= 1).all()
    assert found.gain(40, 10)[0] == 0


def test_accuracy_rises_along_the_curve_and_more_images_are_worth_what_they_bring() -> None:
    few, many = features(20), features(32, seed=1)
    found = curve_of(*few)
    values = [point.value for point in found.points]
    assert [point.images_per_category for point in found.points] == sorted(
        point.images_per_category for point in found.points
    )
    assert values[-1] > values[0] + 0.1
    assert all(point.interval.low <= point.value <= point.interval.high for point in found.points)
    assert found.gain is not None
    assert 0.01 < found.gain.value < 0.15
    measured = curve_of(*many).points[-1].value - found.points[-1].value
    assert found.gain.interval.low - 0.08 < measured < found.gain.interval.high + 0.08


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_category_that_lacks_most_gains_most(seed: int) -> None:
    found = curve_of(*features(24, seed, spread=(2.2, 1.0, 1.0, 1.0)))
    gains = {one.category: one.gain for one in found.categories}
    assert next(iter(gains)) == "hard"
    assert gains["hard"].value > 0
    assert all(one.gain.interval.low <= one.gain.value <= one.gain.interval.high for one in found.categories)
    assert {one.image_count for one in found.categories} == {24}


def test_a_category_of_which_there_are_more_images_is_not_better_for_being_predicted_more_often() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    more = np.array([0, 0, 0, 0, 0, 0, 1, 1])  # with more of the first: 4 of 4, and 2 of the other are taken for it
    half = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    grown = np.array([[half, more, half]] * 2)  # more of the second changes nothing
    first, second = by_category(
        labels, half, grown, ("first", "second"), 5, np.full(100, 0.5), np.random.default_rng(0), 10
    )
    gains = {one.category: one for one in (first, second)}
    assert gains["first"].gain.value > 0.1
    assert abs(gains["first"].net_gain.value) < 0.01
    assert abs(gains["second"].gain.value) < gains["first"].gain.value
    assert {first.recall, second.recall} == {1.0, 0.5}


def test_no_gain_is_promised_beyond_what_a_category_lacks() -> None:
    found = curve_of(*features(12, spread=(0.6, 0.5, 0.5, 0.5)))
    assert all(one.recall + one.gain.interval.high <= 1 + 1e-9 for one in found.categories)


def test_labels_without_meaning_promise_no_gain() -> None:
    promised = 0
    for seed in range(6):
        rows, labels = features(20, seed)
        found = curve_of(rows, np.random.default_rng(seed).permutation(labels), seed)
        assert found.gain is not None
        assert abs(found.points[-1].value - 0.25) < 0.15, "chance"
        promised += sum(one.net_gain.interval.low > 0 for one in found.categories) + (found.gain.interval.low > 0)
    assert promised <= 3, "of 30 gains at 95 %"


def test_the_same_seed_gives_the_same_curve() -> None:
    rows, labels = features(16)
    assert curve_of(rows, labels) == curve_of(rows, labels)


@pytest.mark.parametrize(("fewest", "usable"), [(2, 0), (4, 2), (6, 3), (10, 5), (100, 6)])
def test_a_category_always_keeps_two_images(fewest: int, usable: int) -> None:
    assert len(usable_fractions(np.array([fewest, 500]), 5)) == usable


def test_too_few_images_too_many_and_too_little_time_are_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = features(4)
    assert "about 6 of each" in curve_of(rows, labels).unavailable
    rows, labels = features(12)
    partition = divide(labels, Split())
    at_once = learning_curve([rows], labels, partition.fold, partition.folds, NAMES, 0, lambda: True)
    assert "no time" in at_once.unavailable
    assert at_once.gain is None
    monkeypatch.setattr(curves, "MAX_IMAGES", 40)
    assert "up to 40 images; there are 48" in curve_of(rows, labels).unavailable


def test_wide_features_are_projected_and_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = features(20)
    whole = curve_of(rows, labels)
    monkeypatch.setattr(curves, "DIMENSIONS", 30)
    narrow = curve_of(rows, labels)
    assert whole.gain is not None
    assert narrow.gain is not None
    assert narrow.gain.value == pytest.approx(whole.gain.value, abs=0.05)
