"""A fine-tuned network and heads on frozen features answer as one."""

import numpy as np
import torch
from torch import nn

from services.trainer.engine.classification.companion import SHARES, blended, fit_companion, fit_on_other_folds
from services.trainer.engine.classification.heads import normalised
from services.trainer.engine.classification.measure import softmax
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.split import divide
from services.trainer.recipe import Split

LABELS = np.arange(90) % 3


def features(width: int, seed: int, noise: float = 1.0) -> Floats:
    random = np.random.default_rng(seed)
    return (random.normal(size=(3, width))[LABELS] + noise * random.normal(size=(90, width))).astype(np.float32)


def logits(labels: Indices, sharpness: float, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    return (random.normal(size=(len(labels), 3)) + sharpness * np.eye(3)[labels]).astype(np.float32)


def test_the_joined_layer_says_what_the_blend_does() -> None:
    partition = divide(LABELS, Split())
    blocks = [features(12, 0), features(8, 1)]
    companion = fit_companion([], [blocks], LABELS, partition, 3)
    own = features(6, 2)
    head = nn.Linear(6, 3)
    tuned = head(torch.from_numpy(normalised(own))).detach().numpy()
    blend = blended(tuned[partition.first_fold], companion.selection, LABELS[partition.first_fold])
    frozen = (companion.head.logits(blocks) / companion.temperature).astype(np.float32)
    everything = torch.from_numpy(np.concatenate([normalised(block) for block in (own, *blocks)], axis=1))
    joined = companion.joined(head, blend)(everything).detach().numpy()
    np.testing.assert_allclose(softmax(joined), softmax(blend.logits(tuned, frozen)), atol=1e-4)


def test_the_better_of_the_two_gets_the_larger_share() -> None:
    sharp, dull = logits(LABELS, 6), logits(LABELS, 0.1, seed=1)
    assert blended(sharp, dull, LABELS).share > 0.5 > blended(dull, sharp, LABELS).share


def test_two_that_err_on_different_images_are_better_together() -> None:
    first, second = logits(LABELS, 2), logits(LABELS, 2, seed=1)
    blend = blended(first, second, LABELS)
    assert blend.share in SHARES[:-1]
    both = blend.logits(first, second).argmax(axis=1) == LABELS
    assert both.mean() > max((each.argmax(axis=1) == LABELS).mean() for each in (first, second))


def test_what_is_predicted_for_the_first_fold_has_not_seen_it() -> None:
    partition = divide(LABELS, Split())
    blocks = [features(12, 0)]
    other = LABELS.copy()
    other[partition.first_fold] = 0
    part, changed = (fit_on_other_folds([blocks], labels, partition, 3) for labels in (LABELS, other))
    np.testing.assert_array_equal(part.weight, changed.weight)
    whole, spoilt = (fit_companion([], [blocks], labels, partition, 3) for labels in (LABELS, other))
    assert not np.array_equal(whole.head.weight, spoilt.head.weight)
