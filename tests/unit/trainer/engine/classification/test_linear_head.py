"""The linear head and how its penalty is chosen."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.linear_head import fit_head
from services.trainer.engine.classification.measure import calibrated_across, fit_temperature
from services.trainer.engine.split import divide
from services.trainer.recipe import Split


def _blobs(rows: int, width: int, seed: int = 0) -> tuple[logistic.Floats, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    centres = random.normal(size=(3, width))
    return (centres[labels] + 1.5 * random.normal(size=(rows, width))).astype(np.float32), labels


@pytest.mark.parametrize("width", [5, 200])
def test_the_solution_is_that_of_scikit_learn(width):
    rows, labels = _blobs(60, width)
    strength = 1.0
    ours = logistic.solve(rows, labels, np.ones((1, 60), bool), 3, strength, steps=500)[0]
    theirs = LogisticRegression(C=1 / (strength / 100 * 60), tol=1e-8, max_iter=10_000).fit(rows, labels)
    logits = rows @ ours[:-1] + ours[-1]
    expected = theirs.decision_function(rows)
    centred = logits - logits.mean(axis=1, keepdims=True)
    assert np.allclose(centred, expected - expected.mean(axis=1, keepdims=True), atol=0.1)


def test_rotation_into_the_rows_own_span_changes_no_prediction():
    rows, labels = _blobs(40, 300)
    coordinates, basis = logistic.rotated(rows)
    assert basis is not None
    assert coordinates.shape[1] <= 40
    assert np.allclose(coordinates @ basis, rows, atol=1e-3)
    everything = np.ones((1, 40), bool)
    direct = logistic.solve(rows, labels, everything, 3, 1.0, steps=300)[0]
    turned = logistic.solve(coordinates, labels, everything, 3, 1.0, steps=300)[0]
    expected = rows @ direct[:-1] + direct[-1]
    assert np.allclose(coordinates @ turned[:-1] + turned[-1], expected, atol=0.1)


def test_out_of_fold_logits_know_nothing_of_their_own_labels():
    random = np.random.default_rng(1)
    features = random.normal(size=(90, 400)).astype(np.float32)
    labels = random.permutation(np.arange(90) % 3)
    partition = divide(labels, Split())
    head = fit_head([features], labels, partition.fold, partition.folds, 3, (400,))
    assert (head.choice.logits.argmax(axis=1) == labels).mean() < 0.5
    assert (head.logits(features).argmax(axis=1) == labels).mean() > 0.3


def test_a_head_applies_to_raw_features_and_views_of_one_image_share_its_fold():
    features, labels = _blobs(60, 30)
    partition = divide(labels, Split())
    head = fit_head([features, features + 0.01], labels, partition.fold, partition.folds, 3, (10, 20))
    assert head.choice.logits.shape == (60, 3)
    assert (head.logits(features).argmax(axis=1) == labels).mean() > 0.9


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


def test_folds_are_no_more_than_the_smallest_category_has_images():
    assert divide(np.array([0, 0, 1, 1, 1, 1, 1]), Split()).folds == 2


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
