"""Which images train, which select, and which only report: every category is spread over the parts.

By iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011): the rarest category comes first, and
each of its images goes to the part that has the fewest of that category so far.
"""

import numpy as np

from services.trainer.engine.data import Indices
from services.trainer.engine.detection.data import Scenes
from services.trainer.engine.split import Partition, bounded, fold_count, share
from services.trainer.recipe import MIN_HELD_OUT_FROM, Split


def divide(scenes: Scenes, split: Split, *, refit: bool = False) -> Partition:
    """Hold-out first, then the folds; with `refit` the first fold is empty. The snapshot's groups stay together."""
    random = np.random.default_rng(split.seed)
    rows = np.arange(len(scenes.samples))
    held = np.zeros(len(rows), np.bool_)
    group = bounded(scenes.groups, [scenes.categories_in(row) for row in rows.tolist()], split.folds)
    if split.holdout_fraction > 0 and int(scenes.image_counts().min()) >= MIN_HELD_OUT_FROM:
        held_parts, parts = share(split.holdout_fraction)
        held = _dealt(scenes, rows, parts, random, group) < held_parts
    trainable = np.flatnonzero(~held)
    folds = fold_count(split, _image_counts(scenes, trainable))
    fold = np.ones(len(trainable), np.int64) if refit else _dealt(scenes, trainable, folds, random, group)
    return Partition(trainable, fold, np.flatnonzero(held), folds)


def _image_counts(scenes: Scenes, rows: Indices) -> Indices:
    present = [scenes.categories_in(row) for row in rows.tolist()]
    return np.bincount(np.concatenate(present), minlength=len(scenes.categories))


def _dealt(scenes: Scenes, rows: Indices, parts: int, random: np.random.Generator, group: Indices) -> Indices:
    """[rows]: the part of each; large groups come first, images without regions last, to even out the sizes."""
    present = [scenes.categories_in(row) for row in rows.tolist()]
    left = np.bincount(np.concatenate([*present, np.empty(0, np.int64)]), minlength=len(scenes.categories))
    having: list[list[int]] = [[] for _ in scenes.categories]
    members: dict[int, list[int]] = {}
    for place, label in enumerate(group[rows].tolist()):
        members.setdefault(label, []).append(place)
    together = [members[label] for label in group[rows].tolist()]
    order = sorted(random.permutation(len(rows)).tolist(), key=lambda place: -len(together[place]))
    for place in order:
        for category in present[place].tolist():
            having[category].append(place)
    part = np.full(len(rows), -1, np.int64)
    dealt, sizes = np.zeros((len(scenes.categories), parts), np.int64), np.zeros(parts, np.int64)

    def deal(place: int, least: Indices) -> None:
        chosen = int(np.lexsort((sizes, least))[0])
        for each in together[place]:
            part[each] = chosen
            sizes[chosen] += 1
            dealt[present[each], chosen] += 1
            left[present[each]] -= 1

    while (left > 0).any():
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        for place in having[rarest]:
            if part[place] < 0:
                deal(place, dealt[rarest])
    for place in order:
        if part[place] < 0:
            deal(place, sizes)
    return part
