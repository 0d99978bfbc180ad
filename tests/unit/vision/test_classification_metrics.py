"""The metrics equal scikit-learn's and the retired service's own published code."""

import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support
from vision_evaluation import evaluators

from services.vision.classification_metrics import (
    Scores,
    Targets,
    accuracy,
    average_precision,
    bootstrap_interval,
    classification_report,
    expected_thresholds,
    top1_reliability,
)
from services.vision.intervals import resampling_interval, wilson_interval
from services.vision.precision_recall import CurvePoint, threshold_below
from services.vision.reliability import calibration_error

Arrays = tuple[NDArray[Any], NDArray[np.int64]]


def sample(seed: int, images: int = 200, categories: int = 8, ties: bool = False, present: int | None = None) -> Arrays:
    """Scores that are right more often than not; with `ties` rounded, with `present` some categories never true."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, present or categories, images)
    logits = random.normal(size=(images, categories))
    logits[np.arange(images), targets] += 1.2
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return (np.round(scores, 1) if ties else scores), targets


DOUBLES = [sample(0), sample(1, ties=True), sample(2, present=5), sample(3, ties=True, present=3), sample(4, 12, 2)]
SAMPLES = [*DOUBLES, *((scores.astype(np.float32), targets) for scores, targets in DOUBLES[:2])]


def published(evaluator: Any, scores: NDArray[Any], targets: NDArray[Any]) -> Any:
    evaluator.add_predictions(scores, targets)
    (value,) = evaluator.get_report(average="macro").values()
    return value


@pytest.mark.parametrize(("scores", "targets"), SAMPLES)
def test_average_precision_equals_sklearn_and_the_published_code(scores: NDArray[Any], targets: NDArray[Any]) -> None:
    per_category = [
        average_precision_score(targets == category, scores[:, category]) for category in np.unique(targets)
    ]
    assert average_precision(scores, targets) == pytest.approx(np.mean(per_category), abs=1e-12)
    reference = published(evaluators.AveragePrecisionEvaluator(), scores, targets)
    assert average_precision(scores, targets) == pytest.approx(reference, abs=1e-12)
    report = classification_report(scores, targets)
    for category, value in zip(np.unique(targets), per_category, strict=True):
        assert report.categories[category].average_precision == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("scores", "targets"), SAMPLES)
def test_accuracy_and_calibration_equal_the_published_code(scores: NDArray[Any], targets: NDArray[Any]) -> None:
    top1 = published(evaluators.TopKAccuracyEvaluator(1), scores, targets)
    assert accuracy(scores, targets, 1) == pytest.approx(top1, abs=1e-12)
    ece = published(evaluators.EceLossEvaluator(), scores, targets)
    bins = top1_reliability(scores, targets)
    assert calibration_error(bins) == pytest.approx(ece, abs=1e-9)
    assert sum(one.count for one in bins) == len(targets)
    assert sum(one.right for one in bins) == round(top1 * len(targets))
    recalls = published(evaluators.TagWiseAccuracyEvaluator(), scores, targets)
    report = classification_report(scores, targets)
    assert [category.recall for category in report.categories] == pytest.approx(recalls, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_top_five_equals_the_published_code_without_ties(seed: int) -> None:
    scores, targets = sample(seed, categories=9)
    reference = published(evaluators.TopKAccuracyEvaluator(5), scores, targets)
    assert accuracy(scores, targets, 5) == pytest.approx(reference)


def test_with_equal_scores_the_lower_index_ranks_higher() -> None:
    scores = np.full((4, 4), 0.25)
    assert accuracy(scores, np.array([0, 1, 2, 3]), 1) == 0.25
    assert accuracy(scores, np.array([0, 1, 2, 3]), 2) == 0.5
    assert accuracy(scores, np.array([0, 1, 2, 3]), 5) == 1.0


@pytest.mark.parametrize(("scores", "targets"), SAMPLES)
def test_per_category_numbers_and_confusion_equal_sklearn(scores: NDArray[Any], targets: NDArray[Any]) -> None:
    report = classification_report(scores, targets)
    predicted = scores.argmax(axis=1)
    labels = np.arange(scores.shape[1])
    reference: Any = precision_recall_fscore_support
    precision, recall, f1, support = reference(targets, predicted, labels=labels, zero_division=0)
    assert [c.precision for c in report.categories] == pytest.approx(precision.tolist())
    assert [c.recall for c in report.categories] == pytest.approx(recall.tolist())
    assert [c.f1 for c in report.categories] == pytest.approx(f1.tolist())
    assert [c.support for c in report.categories] == support.tolist()
    dense = np.zeros((len(labels), len(labels)), int)
    for cell in report.confusion:
        dense[cell.actual, cell.predicted] = cell.count
    np.testing.assert_array_equal(dense, confusion_matrix(targets, predicted, labels=labels))


def test_the_suggested_threshold_has_the_best_f1_of_all() -> None:
    scores, targets = sample(7)
    categories = classification_report(scores, targets).categories
    assert len(categories) == scores.shape[1]
    for index, category in enumerate(categories):

        def f1(threshold: float, index: int = index) -> float:
            accepted = scores[:, index] >= threshold
            right = (accepted & (targets == index)).sum()
            return 2 * right / (accepted.sum() + (targets == index).sum())

        best = max(f1(threshold) for threshold in scores[:, index])
        assert f1(category.suggested_threshold) == pytest.approx(best)


def test_a_threshold_is_halfway_to_the_next_lower_score_even_if_no_number_is_in_between() -> None:
    scores, targets = np.array([[0.1, 0.9], [0.3, 0.7], [0.5, 0.5], [0.6, 0.4]]), np.array([1, 1, 1, 0])
    found = [category.suggested_threshold for category in classification_report(scores, targets).categories]
    assert found == pytest.approx([0.55, 0.45])
    assert threshold_below(0.2, np.array([0.2, 0.8])) == pytest.approx(0.1)
    lower = np.float32(0.5)
    above = np.nextafter(lower, np.float32(1))
    assert threshold_below(float(above), np.array([lower, above])) == above


def test_probabilities_tell_the_threshold_of_the_best_f1() -> None:
    """Of many images, drawn as the scores say; of a rare category too, whose best threshold is far below a half."""
    random = np.random.default_rng(5)
    scores = np.stack([random.beta(0.3, 6, 40_000), random.beta(2, 2, 40_000)], axis=1)
    found = expected_thresholds(scores, np.array([0, 1] * 20_000))
    for column, threshold in zip(scores.T, found, strict=True):
        drawn = random.random(len(column)) < column

        def f1(least: float, column: Any = column, drawn: Any = drawn) -> float:
            accepted = column >= least
            return float(2 * (accepted & drawn).sum() / (accepted.sum() + drawn.sum()))

        assert f1(threshold) > max(f1(least) for least in np.linspace(0.02, 0.98, 49)) - 0.005
    assert expected_thresholds(np.array([[0.8, 0.2]]), np.array([0])).tolist() == pytest.approx([0.8 / 1.8, 0.5])


def test_every_point_of_a_curve_is_what_its_threshold_gives_and_curves_stay_short() -> None:
    scores, targets = sample(8, images=3000, categories=3)
    categories = classification_report(scores, targets).categories
    assert len(categories) == 3
    for index, category in enumerate(categories):
        assert len(category.curve) == 100
        assert list(category.curve) == sorted(category.curve, key=lambda point: point.threshold)
        assert category.curve[0].recall == 1.0
        for point in category.curve:
            accepted = scores[:, index] >= point.threshold
            right = (accepted & (targets == index)).sum()
            expected = CurvePoint(point.threshold, right / accepted.sum(), right / (targets == index).sum())
            assert (point.precision, point.recall) == pytest.approx((expected.precision, expected.recall))


def test_a_category_without_ground_truth_is_in_no_mean() -> None:
    scores, targets = sample(2, present=5)
    absent = classification_report(scores, targets).categories[7]
    assert (absent.support, absent.recall, absent.average_precision) == (0, 0.0, 0.0)
    assert (absent.suggested_threshold, absent.curve) == (0.5, ())
    assert average_precision(scores, targets) > average_precision(np.ones_like(scores), targets)


def test_no_images_give_zeros_and_the_widest_intervals() -> None:
    report = classification_report(np.empty((0, 3)), np.empty(0, np.int64))
    assert (report.average_precision, report.accuracy_top1, report.calibration_ece) == (0.0, 0.0, 0.0)
    assert (report.intervals["accuracy_top1"].low, report.intervals["accuracy_top1"].high) == (0.0, 1.0)


def test_wilson_s_interval_has_its_published_values() -> None:
    interval = wilson_interval(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    interval = wilson_interval(81, 263)  # Newcombe (1998), table I: 0.2553 to 0.3662
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20).low == 0.0
    assert wilson_interval(20, 20).high == 1.0


def test_the_bootstrap_is_seeded_covers_the_value_and_narrows_with_more_images() -> None:
    small, large = sample(5, 60), sample(5, 2000)
    first, second = bootstrap_interval(*small, seed=1), bootstrap_interval(*small, seed=1)
    assert first == second
    assert bootstrap_interval(*small, seed=2) != first
    assert first.low < average_precision(*small) < first.high
    wide, narrow = first, bootstrap_interval(*large)
    assert narrow.high - narrow.low < wide.high - wide.low


@pytest.mark.parametrize("seed", range(40))
def test_an_interval_contains_its_value_however_few_the_images(seed: int) -> None:
    scores, targets = sample(seed, images=6, categories=2)
    interval = bootstrap_interval(scores, targets)
    assert interval.low <= average_precision(scores, targets) <= interval.high


def test_four_images_that_are_all_right_do_not_make_the_average_precision_certain() -> None:
    scores, targets = np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    assert bootstrap_interval(scores, targets) == wilson_interval(4, 4)


def test_few_resamples_give_an_interval_of_similar_width(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = sample(6, 400)
    many = bootstrap_interval(scores, targets)
    monkeypatch.setattr("services.vision.classification_metrics.BOOTSTRAP_CELLS", 50 * scores.size)
    few = bootstrap_interval(scores, targets)
    assert math.isclose(few.high - few.low, many.high - many.low, rel_tol=0.5)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (np.array([[np.nan, 1.0]]), np.array([0])),
        (np.ones((2, 3)), np.array([0, 3])),
        (np.ones((2, 3)), np.array([0, -1])),
        (np.ones((2, 3)), np.array([0])),
    ],
)
def test_inconsistent_input_is_refused(scores: NDArray[Any], targets: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"scores|targets"):
        classification_report(scores, targets)


def test_an_interval_makes_up_for_what_repeated_images_add_to_its_resamples() -> None:
    even, flattered = np.linspace(0.5, 0.9, 401), np.linspace(0.6, 1.0, 401)
    assert astuple(resampling_interval(0.7, even, 50)) == pytest.approx((0.51, 0.89))
    assert astuple(resampling_interval(0.7, flattered, 50)) == pytest.approx((0.61 - 0.2, 0.99 - 0.1))
    assert astuple(resampling_interval(0.7, np.linspace(0.8, 0.9, 401), 50))[1] >= 0.7
    assert resampling_interval(0.1, np.linspace(0.2, 0.9, 401), 50).low == 0.0


def test_the_interval_of_the_average_precision_of_few_images_covers_that_of_many() -> None:
    """Scores of 20 categories, of which 80 images have four each: without the correction, 10 of 24 are missed."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(20, 12))

    def drawn(images: int) -> tuple[Scores, Targets]:
        targets = np.arange(images) % 20
        logits = (centres[targets] + 1.4 * random.normal(size=(images, 12))) @ centres.T / 3
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), targets

    truth = average_precision(*drawn(20_000))
    limits = [bootstrap_interval(*drawn(80)) for _ in range(24)]
    assert sum(one.low <= truth <= one.high for one in limits) >= 18
