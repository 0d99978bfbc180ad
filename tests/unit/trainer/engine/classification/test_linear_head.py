"""Linear heads: the solvers, their combination, and what cross-validation may know."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from services.trainer.engine.classification import discriminant, heads, logistic
from services.trainer.engine.classification.heads import fit_head, mirroring_harms, normalised
from services.trainer.engine.classification.measure import (
    TEMPERATURES,
    calibrated_across,
    fit_temperature,
    measure,
    softmax,
)
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.split import divide
from services.trainer.performance import Source
from services.trainer.recipe import Split
from services.vision.prediction_sets import Calibration


def blobs(rows: int, width: int, seed: int = 0) -> tuple[Floats, Indices]:
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    centres = random.normal(size=(3, width))
    return (centres[labels] + 1.5 * random.normal(size=(rows, width))).astype(np.float32), labels


def centred(logits: Floats) -> Floats:
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("width", [5, 200])
def test_the_logistic_solution_is_that_of_scikit_learn(width: int) -> None:
    rows, labels = blobs(60, width)
    ours = logistic.solve(rows, labels, 3)
    theirs = LogisticRegression(C=1 / (logistic.PENALTY * 60), tol=1e-8, max_iter=10_000).fit(rows, labels)
    np.testing.assert_allclose(softmax(logistic.apply(rows, ours)), theirs.predict_proba(rows), atol=0.02)


def test_the_discriminant_is_that_of_scikit_learn() -> None:
    rows, labels = blobs(90, 20)
    weights = discriminant.Moments.of(rows, labels, 3).solve(width=20)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=discriminant.SHRINKAGE).fit(rows, labels)
    expected = theirs.decision_function(rows)
    np.testing.assert_allclose(centred(logistic.apply(rows, weights)), centred(expected), rtol=0.1, atol=0.2)


def test_without_some_rows_the_discriminant_is_that_of_the_others() -> None:
    rows, labels = blobs(90, 20)
    out = np.arange(90) % 5 == 0
    every, some = (discriminant.Moments.of(rows[which], labels[which], 3) for which in (slice(None), out))
    others = discriminant.Moments.of(rows[~out], labels[~out], 3)
    np.testing.assert_allclose(every.without(some).solve(20), others.solve(20), rtol=1e-5, atol=1e-6)


def test_moments_of_many_rows_and_categories_take_little_memory() -> None:
    random = np.random.default_rng(0)
    rows, labels = random.random((5000, 50), np.float32), random.integers(0, 990, 5000)
    tracemalloc.start()
    moments = discriminant.Moments.of(rows, labels, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    member, wide = np.eye(1000)[labels], rows.astype(np.float64)
    np.testing.assert_array_equal(moments.counts, member.sum(axis=0))
    np.testing.assert_allclose(moments.sums, member.T @ wide)
    np.testing.assert_allclose(moments.products, wide.T @ wide)


def test_rotation_into_the_rows_own_span_changes_no_prediction() -> None:
    rows, labels = blobs(40, 300)
    rows[1] = rows[0]  # a duplicate
    coordinates, back = logistic.rotated(rows)
    assert coordinates.shape == (40, 40)
    np.testing.assert_allclose(coordinates @ coordinates.T, rows @ rows.T, rtol=1e-4, atol=1e-2)
    for solve in (
        lambda x: logistic.solve(x, labels, 3),
        lambda x: discriminant.Moments.of(x, labels, 3).solve(width=300),
    ):
        weights = solve(coordinates)
        direct, turned = logistic.apply(rows, solve(rows)), logistic.apply(coordinates, weights)
        np.testing.assert_allclose(softmax(turned), softmax(direct), atol=0.01)
        np.testing.assert_allclose(rows @ back(weights[:-1]) + weights[-1], turned, rtol=1e-3, atol=1e-3)


def test_rows_that_are_all_equal_can_be_rotated() -> None:
    coordinates, back = logistic.rotated(np.zeros((6, 20), np.float32))
    assert np.abs(coordinates).max() < 1e-5
    assert np.isfinite(back(np.ones((6, 2), np.float32))).all()


def test_out_of_fold_logits_know_nothing_of_their_own_labels() -> None:
    right: list[float] = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        features = random.normal(size=(90, 400)).astype(np.float32)
        labels = random.permutation(np.arange(90) % 3)
        partition = divide(labels, Split())
        views = [[features], [features + 0.01]]  # a view of an image in training would give the image away
        head = fit_head(views, labels, partition.fold, partition.folds, 3)
        right.append((head.out_of_fold.argmax(axis=1) == labels).mean())
        assert (head.logits([features]).argmax(axis=1) == labels).mean() > 0.9
    assert np.mean(right) == pytest.approx(1 / 3, abs=0.08)  # the labels are noise


def test_on_labels_without_meaning_the_reported_interval_covers_chance() -> None:
    """The interval of a cross-validated performance, for several combinations of images and categories."""
    covered: list[bool] = []
    for seed, (count, categories) in enumerate([(12, 2), (20, 2), (30, 3), (60, 3), (60, 6), (100, 10)] * 4):
        random = np.random.default_rng(seed)
        features = random.normal(size=(count, 150)).astype(np.float32)
        labels = random.permutation(np.arange(count) % categories)
        names = tuple(str(number) for number in range(categories))
        partition = divide(labels, Split(seed=seed))
        head = fit_head([[features]], labels, partition.fold, partition.folds, categories)
        logits = calibrated_across(head.out_of_fold, labels, partition.fold)
        measured = measure(softmax(logits), labels, names, Source.CROSS_VALIDATION)
        limits = measured.intervals["accuracy_top1"]
        covered.append(limits.low <= 1 / categories <= limits.high)
        assert measured.source is Source.CROSS_VALIDATION
    assert sum(covered) >= 21, "of 24 intervals at 95 %"


def noisy_directions(counts: Sequence[int]) -> tuple[Floats, Indices]:
    """Categories of so many images, which vary most in a few directions that say little: a discriminant's case."""
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 0.5 * random.normal(size=(len(counts), 200))
    spread = np.where(np.arange(200) < 10, 4, 1)
    return (centres[labels] + spread * random.normal(size=(len(labels), 200))).astype(np.float32), labels


def out_of_fold_loss(features: Floats, labels: Indices, categories: int) -> float:
    partition = divide(labels, Split())
    logits = fit_head([[features]], labels, partition.fold, partition.folds, categories).out_of_fold
    return float(logistic.log_losses(logits, labels).mean())


@pytest.mark.parametrize("rare", [1, 2])
def test_a_rare_category_does_not_take_the_discriminant_from_the_others(
    monkeypatch: pytest.MonkeyPatch, rare: int
) -> None:
    features, labels = noisy_directions([10] * 8 + [rare])
    ours = out_of_fold_loss(features, labels, 9)
    monkeypatch.setattr(heads, "DISCRIMINANT_WIDTH", 0)
    assert ours < 0.8 * out_of_fold_loss(features, labels, 9)


def test_with_rare_categories_a_discriminant_that_does_not_help_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), [10] * 6 + [2])
    features = random.normal(size=(len(labels), 30)).astype(np.float32)  # noise
    monkeypatch.setattr(discriminant, "SHRINKAGE", 0.0)  # which makes it worse
    ours = out_of_fold_loss(features, labels, 7)
    monkeypatch.setattr(heads, "DISCRIMINANT_WIDTH", 0)
    assert ours == out_of_fold_loss(features, labels, 7)


def test_images_whose_category_the_other_folds_lack_do_not_cool_a_head() -> None:
    features, labels = blobs(3, 30)
    head = fit_head([[features]], labels, np.array([0, 1, 0]), 2, 3)
    assert softmax(head.logits([features])).max(axis=1).min() > 0.6


def test_a_head_reads_features_of_several_networks_whatever_their_scale() -> None:
    features, labels = blobs(60, 30)
    partition = divide(labels, Split())
    blocks = [features[:, :10], 1000 * features[:, 10:]]
    head = fit_head([blocks], labels, partition.fold, partition.folds, 3)
    assert head.out_of_fold.shape == (60, 3)
    assert head.solved.all()
    assert (head.logits(blocks).argmax(axis=1) == labels).mean() > 0.9
    scaled = [blocks[0] * 7, blocks[1]]  # of unit length before the head reads them
    np.testing.assert_allclose(head.logits(scaled), head.logits(blocks), rtol=1e-3, atol=1e-3)


def test_the_head_is_the_mean_of_its_kinds_each_calibrated() -> None:
    features, labels = blobs(60, 12)
    partition = divide(labels, Split())
    fold, folds = partition.fold, partition.folds
    head = fit_head([[features]], labels, fold, folds, 3)
    rows = normalised(features)
    rows = rows - rows.mean(axis=0)
    rows /= np.sqrt(np.square(rows).sum(axis=1).mean())
    expected = np.zeros((60, 3))
    for solve in (
        lambda x, y: logistic.solve(x, y, 3),
        lambda x, y: discriminant.Moments.of(x, y, 3).solve(12),
    ):
        out = np.zeros((60, 3), np.float32)
        for number in range(folds):
            train = fold != number
            out[~train] = logistic.apply(rows[~train], solve(rows[train], labels[train]))
        expected += logistic.apply(rows, solve(rows, labels)) / fit_temperature(out, labels) / 2
    np.testing.assert_allclose(head.logits([features]), expected, atol=1e-2)


def test_half_of_the_head_reads_the_stages_before_the_last_too() -> None:
    told, labels = blobs(60, 12)
    untold = np.random.default_rng(1).normal(size=(60, 30)).astype(np.float32)
    partition = divide(labels, Split())
    fold, folds = partition.fold, partition.folds
    with_middle = fit_head([[untold, told]], labels, fold, folds, 3, (False, True))
    without, everything = (
        fit_head([[untold]], labels, fold, folds, 3),
        fit_head([[untold, told]], labels, fold, folds, 3),
    )
    np.testing.assert_allclose(with_middle.weight[:, 30:], everything.weight[:, 30:] / 2, atol=1e-4)
    np.testing.assert_allclose(with_middle.weight[:, :30], (without.weight + everything.weight[:, :30]) / 2, atol=1e-4)
    shared = (without.logits([untold]) + everything.logits([untold, told])) / 2
    np.testing.assert_allclose(with_middle.logits([untold, told]), shared, atol=1e-3)
    right = [(head.out_of_fold.argmax(axis=1) == labels).mean() for head in (without, with_middle)]
    assert right[1] > right[0] + 0.2


def test_rows_without_a_mistake_do_not_make_the_next_mistake_certain() -> None:
    labels = np.arange(30) % 3
    logits = 300 * np.eye(3, dtype=np.float32)[labels]
    doubt = 1 - softmax(logits / np.float32(fit_temperature(logits, labels)))[np.arange(30), labels]
    assert 0.005 < doubt.max() < 0.05


def test_two_images_a_category_fit_no_discriminant() -> None:
    features, labels = blobs(6, 40)
    partition = divide(labels, Split())
    head = fit_head([[features]], labels, partition.fold, partition.folds, 3)
    assert np.isfinite(head.weight).all()
    assert (head.logits([features]).argmax(axis=1) == labels).all()


def test_mirroring_harms_where_the_mirrored_image_looks_like_another_category() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    centres = np.eye(3, 8) * 4
    plain = (centres[labels] + random.normal(size=(90, 8))).astype(np.float32)
    mirrored = (centres[(labels + 1) % 3] + random.normal(size=(90, 8))).astype(np.float32)
    same = (centres[labels] + random.normal(size=(90, 8))).astype(np.float32)
    partition = divide(labels, Split())
    assert mirroring_harms([[plain], [mirrored]], labels, partition.fold, partition.folds, 3)
    assert not mirroring_harms([[plain], [same]], labels, partition.fold, partition.folds, 3)


def test_of_very_many_rows_fewer_folds_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(60, 12)
    partition = divide(labels, Split())
    monkeypatch.setattr(heads, "CELLS", 2 * 60 * 12 * 3)
    head = fit_head([[features]], labels, partition.fold, partition.folds, 3)
    assert head.solved.tolist() == (partition.fold < 2).tolist()


def test_a_split_is_stratified_disjoint_and_the_same_each_time():
    labels = np.repeat(np.arange(4), [20, 25, 40, 31])
    partition = divide(labels, Split(seed=3, holdout_fraction=0.2))
    again = divide(labels, Split(seed=3, holdout_fraction=0.2))
    assert np.array_equal(partition.held_out, again.held_out)
    assert np.array_equal(partition.fold, again.fold)
    assert not set(partition.held_out) & set(partition.trainable)
    assert len(partition.held_out) + len(partition.trainable) == len(labels)
    for label in range(4):
        assert (labels[partition.held_out] == label).sum() >= 4
        for number in range(partition.folds):
            assert (labels[partition.trainable[partition.fold == number]] == label).any()


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.25, 0.4, 0.6])
def test_the_share_that_is_held_out_is_the_one_that_is_asked_for(fraction: float) -> None:
    parts = divide(np.repeat(np.arange(4), 100), Split(holdout_fraction=fraction))
    assert len(parts.held_out) == 400 * fraction


def test_without_twenty_images_of_every_category_nothing_is_held_out():
    labels = np.repeat(np.arange(2), [19, 40])
    assert len(divide(labels, Split(holdout_fraction=0.2)).held_out) == 0


def test_folds_are_no_more_than_most_categories_have_images():
    assert divide(np.repeat(np.arange(3), [9, 2, 2]), Split()).folds == 2


def test_a_rare_category_does_not_decide_how_many_images_train():
    labels = np.repeat(np.arange(3), [40, 2, 40])
    partition = divide(labels, Split(folds=5))
    assert partition.folds == 5
    for fold in range(5):
        others = labels[partition.trainable[partition.fold != fold]]
        assert (np.bincount(others) >= [32, 1, 32]).all()


def test_the_temperature_is_the_best_of_the_grid():
    for seed in range(20):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 4, 5 + 3 * seed)
        logits = (random.normal(size=(len(labels), 4)) * 10 ** random.uniform(-2, 2)).astype(np.float32)
        rivals = np.where(np.eye(4, dtype=bool)[labels], -np.inf, logits).argmax(axis=1)
        doubt = 0.5 / (len(labels) + 1)
        losses = {
            temperature: (1 - doubt) * logistic.log_losses(logits / np.float32(temperature), labels).mean()
            + doubt * logistic.log_losses(logits / np.float32(temperature), rivals).mean()
            for temperature in TEMPERATURES.tolist()
        }
        assert losses[fit_temperature(logits, labels)] == pytest.approx(min(losses.values()), rel=1e-6)


def test_temperature_undoes_overconfidence_and_no_fold_calibrates_itself():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    logits = (random.normal(size=(600, 3)) + 1.5 * np.eye(3)[labels]).astype(np.float32)
    found = fit_temperature(logits * 8, labels)
    assert found == pytest.approx(8 * fit_temperature(logits, labels), rel=0.1)
    fold = np.arange(600) % 2
    across = calibrated_across(logits * 8, labels, fold)
    other = labels.copy()
    other[fold == 0] = 0
    assert np.array_equal(calibrated_across(logits * 8, other, fold)[fold == 0], across[fold == 0])


def test_sets_calibrated_out_of_fold_contain_the_category_of_new_images_as_often_as_promised() -> None:
    covered: list[float] = []
    for seed in range(12):
        features, labels = blobs(2090, 12, seed)
        partition = divide(labels[:90], Split())
        head = fit_head([[features[:90]]], labels[:90], partition.fold, partition.folds, 3)
        calibration = Calibration.of(softmax(head.out_of_fold)[np.arange(90), labels[:90]].tolist())
        threshold = calibration.threshold(0.9)
        assert threshold is not None
        fresh = softmax(head.logits([features[90:]]))
        covered.append(float((fresh[np.arange(2000), labels[90:]] >= threshold).mean()))
        assert (fresh >= threshold).sum(axis=1).mean() < 3, "not simply every category"
    assert 0.87 <= np.mean(covered) <= 0.96
