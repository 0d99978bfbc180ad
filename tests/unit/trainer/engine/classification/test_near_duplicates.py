"""Near-duplicates: which images are, and folds that keep them together."""

import numpy as np

from services.trainer.engine.classification.heads import fit_head
from services.trainer.engine.classification.near_duplicates import COMPARED, near_duplicates
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.split import bounded, divide
from services.trainer.recipe import Split


def bursts(count: int, shots: int, categories: int, seed: int = 0) -> tuple[Floats, Indices, Indices]:
    """(features, labels, burst of each image), shuffled; every burst shows an object that is like no other."""
    random = np.random.default_rng(seed)
    burst = random.permutation(np.repeat(np.arange(count), shots))
    features = random.normal(size=(count, 64))[burst] + 0.1 * random.normal(size=(len(burst), 64))
    return features.astype(np.float32), burst % categories, burst


def test_photos_of_one_object_are_one_group_and_no_others_are() -> None:
    features, labels, burst = bursts(count=40, shots=3, categories=2)
    group = near_duplicates(features, labels, folds=5)
    assert np.array_equal(group[:, None] == group, burst[:, None] == burst)


def test_groups_do_not_reach_into_another_category() -> None:
    features, labels, burst = bursts(count=40, shots=2, categories=2)
    labels = np.where(np.arange(len(labels)) == np.flatnonzero(burst == 0)[0], 1, labels)  # mistaken for the other
    group = near_duplicates(features, labels, folds=5)
    assert all(len(np.unique(labels[group == one])) == 1 for one in np.unique(group))


def test_labels_that_are_noise_are_predicted_as_by_chance() -> None:
    right = list[float]()
    for seed in range(6):
        features, _, _ = bursts(count=5, shots=30, categories=1, seed=seed)
        labels = np.random.default_rng(seed).integers(0, 5, len(features))
        partition = divide(labels, Split(folds=5, seed=seed), near_duplicates(features, labels, folds=5))
        head = fit_head([[features]], labels, partition.fold, 5, 5)
        right.append(float(np.mean(head.out_of_fold.argmax(axis=1) == labels)))
    assert 0.14 < np.mean(right) < 0.26  # 4.5 standard errors from chance


def test_a_group_is_at_most_a_fold_of_its_category() -> None:
    features, labels, _ = bursts(count=2, shots=30, categories=2)
    group = near_duplicates(features, labels, folds=5)
    assert np.unique(group, return_counts=True)[1].max() == 6
    partition = divide(labels, Split(folds=5), group)
    assert all((labels[partition.fold == fold] == label).any() for fold in range(5) for label in (0, 1))


def test_known_groups_are_kept_together_though_their_features_differ() -> None:
    random = np.random.default_rng(5)
    features = random.normal(size=(60, 64)).astype(np.float32)
    labels, known = np.arange(60) % 2, np.arange(60)
    known[[4, 8, 10]], known[[7, 8]] = 4, 7  # the last has both an image of each category and one of the first group
    assert np.array_equal(near_duplicates(features, labels, 5), np.arange(60))
    group = near_duplicates(features, labels, 5, known)
    assert group[4] == group[10] != group[8]
    assert len(np.unique(group)) == 59


def test_known_groups_and_features_add_up() -> None:
    features, labels, burst = bursts(count=80, shots=2, categories=2)
    known = np.arange(len(labels))
    known[burst == 2] = known[burst == 0] = np.flatnonzero(burst == 0)[0]
    group = near_duplicates(features, labels, 5, known)
    together = np.where(burst == 2, 0, burst)
    assert np.array_equal(group[:, None] == group, together[:, None] == together)


def test_a_known_group_is_not_cut_where_the_comparison_is() -> None:
    count = 2 * COMPARED
    known = np.arange(count)
    known[COMPARED - 50 : COMPARED + 50] = 0
    group = near_duplicates(np.random.default_rng(6).normal(size=(count, 64)).astype(np.float32), known * 0, 5, known)
    assert np.array_equal(group[:, None] == group, known[:, None] == known)


def test_a_known_group_is_at_most_a_fold_of_its_category() -> None:
    labels = np.repeat([0, 1], [40, 10])
    group = bounded(np.where(np.arange(50) < 45, 0, 1), list(labels[:, None]), 5)
    partition = divide(labels, Split(folds=5), group)
    assert all((labels[partition.fold == fold] == label).any() for fold in range(5) for label in (0, 1))
    assert np.unique(group[labels == 0], return_counts=True)[1].tolist() == [8] * 5


def test_an_unreadable_image_is_alone_and_changes_no_other() -> None:
    features, labels, burst = bursts(count=30, shots=3, categories=2)
    features[7] = np.nan
    group = near_duplicates(features, labels, folds=5)
    known = np.arange(len(labels)) != 7
    assert (group == group[7]).sum() == 1
    assert np.array_equal(group[known][:, None] == group[known], burst[known][:, None] == burst[known])


def test_hold_out_and_folds_keep_groups_together() -> None:
    _, labels, burst = bursts(count=60, shots=3, categories=3)
    partition = divide(labels, Split(seed=1, holdout_fraction=0.2), burst)
    part = np.full(len(labels), -1)
    part[partition.trainable] = partition.fold
    assert len(partition.held_out) == 36
    assert all(len(np.unique(part[burst == one])) == 1 for one in range(60))
    assert sorted(np.bincount(partition.fold)) == [27, 27, 30, 30, 30]


def test_images_without_near_duplicates_are_divided_as_if_there_were_no_groups() -> None:
    labels = np.repeat(np.arange(3), [20, 27, 31])
    alone, grouped = divide(labels, Split(seed=2)), divide(labels, Split(seed=2), np.arange(78) + 5)
    assert np.array_equal(alone.fold, grouped.fold)


def test_cross_validation_does_not_learn_objects_by_heart() -> None:
    """Labels of whole objects, drawn at random, can't be predicted; those of their other photos could."""
    features, labels, _ = bursts(count=60, shots=3, categories=2, seed=3)
    right: list[float] = []
    for group in (None, near_duplicates(features, labels, folds=5)):
        partition = divide(labels, Split(), group)
        head = fit_head([[features]], labels, partition.fold, partition.folds, 2)
        right.append(float((head.out_of_fold.argmax(axis=1) == labels).mean()))
    assert right[0] > 0.9
    assert right[1] < 0.65
