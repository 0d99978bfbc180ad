"""Which scenes train, which select, and which only report: every category is spread over the parts.

By iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011): the rarest category deals first, each of its
images to the part that has the fewest of that category so far.
"""

import numpy as np

from services.trainer.engine.data import Indices
from services.trainer.engine.detection.data import Scenes
from services.trainer.engine.split import MIN_HELD_OUT_FROM, Partition, share
from services.trainer.recipe import Split


def divide(scenes: Scenes, split: Split, *, refit: bool = False) -> Partition:
    """Hold-out first, as the split's law says, then the folds; with `refit` none of the images is in the first."""
    random = np.random.default_rng(split.seed)
    rows = np.arange(len(scenes.samples))
    held = np.zeros(len(rows), np.bool_)
    if split.holdout_fraction > 0 and int(scenes.image_counts().min()) >= MIN_HELD_OUT_FROM:
        held_hands, hands = share(split.holdout_fraction)
        held = _dealt(scenes, rows, hands, random) < held_hands
    trainable = np.flatnonzero(~held)
    folds = max(2, min(split.folds, _rarest_count(scenes, trainable)))
    fold = np.ones(len(trainable), np.int64) if refit else _dealt(scenes, trainable, folds, random)
    return Partition(trainable, fold, np.flatnonzero(held), folds)


def _rarest_count(scenes: Scenes, rows: Indices) -> int:
    present = [scenes.categories_in(row) for row in rows.tolist()]
    return int(np.bincount(np.concatenate(present), minlength=len(scenes.categories)).min())


def _dealt(scenes: Scenes, rows: Indices, hands: int, random: np.random.Generator) -> Indices:
    """[rows]: the hand that each is dealt to; those that show nothing come last and fill up the smaller hands."""
    present = [scenes.categories_in(row) for row in rows.tolist()]
    left = np.bincount(np.concatenate([*present, np.empty(0, np.int64)]), minlength=len(scenes.categories))
    having: list[list[int]] = [[] for _ in scenes.categories]
    order = random.permutation(len(rows)).tolist()
    for place in order:
        for category in present[place].tolist():
            having[category].append(place)
    hand = np.full(len(rows), -1, np.int64)
    dealt, sizes = np.zeros((len(scenes.categories), hands), np.int64), np.zeros(hands, np.int64)

    def deal(place: int, least: Indices) -> None:
        chosen = int(np.lexsort((sizes, least))[0])
        hand[place] = chosen
        sizes[chosen] += 1
        dealt[present[place], chosen] += 1
        left[present[place]] -= 1

    while (left > 0).any():
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        for place in having[rarest]:
            if hand[place] < 0:
                deal(place, dealt[rarest])
    for place in order:
        if hand[place] < 0:
            deal(place, sizes)
    return hand
