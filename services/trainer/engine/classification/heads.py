"""Linear heads on normalised features of frozen networks, and their combination into one.

Each kind of head predicts every fold's images from the other folds; these predictions give the temperature that its
logits are divided by. The head that ships is the mean of all kinds, on the networks' last stages alone and on the
stages before them too, which is a linear head again: last stages know objects like those of the pretraining, earlier
ones textures, strokes and everything that is unlike them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.discriminant import Moments
from services.trainer.engine.classification.measure import fit_temperature
from services.trainer.engine.data import Floats, Indices

CELLS = 3e11  # rows x features x categories x folds: beyond this fewer folds are solved
DISCRIMINANT_IMAGES = 3  # of a category
DISCRIMINANT_WIDTH = 4096  # features of a rotated row, beyond which a covariance takes too long
MIRRORED_LOSS = 0.03  # nats

Solve = Callable[[int], Floats]  # weights [features + 1, categories] of the rows outside a fold
NO_FOLD = -1


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of head. One that cannot be solved around a start is calibrated, and added to it."""

    solve: Solve
    around: bool = True
    trusted: bool = True  # otherwise it takes part only if that lowers the log loss out of fold


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A head on normalised features, and the out-of-fold predictions of its cross-validation."""

    weight: Floats  # [categories, width]
    bias: Floats  # [categories]
    out_of_fold: Floats  # logits [images, categories]
    solved: NDArray[np.bool_]  # [images]: which have logits; with very many images, not every fold is solved

    @classmethod
    def of(cls, weight: Floats) -> "LinearHead":
        """One that was not fitted."""
        categories = len(weight)
        return cls(
            weight, np.zeros(categories, np.float32), np.zeros((0, categories), np.float32), np.zeros(0, np.bool_)
        )

    def logits(self, blocks: Sequence[Floats]) -> Floats:
        """[images, categories], from the blocks of features that it was fitted on, [images, width] each."""
        return np.concatenate([normalised(block) for block in blocks], axis=1) @ self.weight.T + self.bias


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows in coordinates of their own span: one for each view and image, the plain views first."""

    coordinates: Floats
    labels: Indices  # of the images
    image: Indices  # which one each row shows
    width: int  # before the rotation


def normalised(features: Floats) -> Floats:
    """Rows of unit length."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def fit_head(
    views: Sequence[Sequence[Floats]],
    labels: Indices,
    fold: Indices,
    folds: int,
    categories: int,
    middle: Sequence[bool] = (),
    start: Floats | None = None,
) -> LinearHead:
    """Fits on the blocks of each view, [images, width]; all views of an image are in its fold.

    `middle` says which blocks are of a stage before a network's last. `start` has the weights [categories, width] that
    the penalty draws to, by default 0; they are for normalised features of last stages.
    """
    every = [True] * len(views[0])
    subsets = [every, [not of_middle for of_middle in middle]] if any(middle) else [every]
    width = sum(block.shape[1] for block in views[0])
    begun = np.zeros((categories, width), np.float32) if start is None else start
    heads = [_fitted(views, subset, labels, fold, folds, begun) for subset in subsets]
    return LinearHead(
        weight=np.mean([head.weight for head in heads], axis=0),
        bias=np.mean([head.bias for head in heads], axis=0),
        out_of_fold=np.mean([head.out_of_fold for head in heads], axis=0),
        solved=np.logical_and.reduce([head.solved for head in heads]),
    )


def mirroring_harms(
    views: Sequence[Sequence[Floats]], labels: Indices, fold: Indices, folds: int, categories: int
) -> bool:
    """Whether mirrored images look like other categories, as letters, arrows or left and right hands do.

    Compares the first two views, plain and mirrored, out of fold: the log loss of the mirrored one must be higher by
    more than the noise, and by more than photos of things show.
    """
    rows, *_ = _rows(views[:2], labels)
    plain, mirrored = rows.coordinates[: len(labels)], rows.coordinates[len(labels) :]
    excess = np.zeros(len(labels))
    for number in range(folds):
        train, out = fold != number, fold == number
        weights = logistic.solve(plain[train], labels[train], categories)
        losses = [logistic.log_losses(logistic.apply(view[out], weights), labels[out]) for view in (mirrored, plain)]
        excess[out] = losses[0] - losses[1]
    return bool(excess.mean() > max(MIRRORED_LOSS, 2 * excess.std() / len(excess) ** 0.5))


def _fitted(
    views: Sequence[Sequence[Floats]], subset: list[bool], labels: Indices, fold: Indices, folds: int, start: Floats
) -> LinearHead:
    """A head that reads only the blocks of the subset; its weights for the others are 0."""
    read = np.repeat(subset, [block.shape[1] for block in views[0]])
    chosen = [list(compress(blocks, subset)) for blocks in views]
    rows, mean, scale, back = _rows(chosen, labels)
    offsets = np.zeros((len(rows.image), len(start)), np.float32)
    if start.any():
        offsets = np.concatenate([LinearHead.of(start[:, read]).logits(blocks) for blocks in chosen])
    weights, share, out_of_fold, solved = _combined(rows, fold, folds, offsets)
    own = back(weights[:-1]) * scale[:, None]
    weight = np.zeros_like(start)
    weight[:, read] = own.T + share * start[:, read]
    return LinearHead(weight, weights[-1] - mean @ own, out_of_fold, solved)


def plain_coordinates(blocks: Sequence[Floats], labels: Indices) -> tuple[Floats, int]:
    """(coordinates, features before the rotation) of images as a head sees them, from each backbone's features."""
    rows, *_ = _rows([blocks], labels)
    return rows.coordinates, rows.width


def _rows(
    views: Sequence[Sequence[Floats]], labels: Indices
) -> tuple[Rows, Floats, Floats, Callable[[Floats], Floats]]:
    """(rows, mean, scale, back): the views one after another, centred, scaled and rotated, and the way back."""
    blocks = [np.concatenate([normalised(view[index]) for view in views]) for index in range(len(views[0]))]
    mean, scale = _scaling(blocks)
    coordinates, back = logistic.rotated((np.concatenate(blocks, axis=1) - mean) * scale)
    image = np.tile(np.arange(len(labels)), len(views))
    return Rows(coordinates, labels, image, len(mean)), mean, scale, back


def _scaling(blocks: Sequence[Floats]) -> tuple[Floats, Floats]:
    """(mean, factor) per feature: rows get a mean squared length of 1, to which every backbone contributes equally.

    Uses no label, so out-of-fold rows take part too.
    """
    means = [block.mean(axis=0) for block in blocks]
    lengths = [np.square(block - mean).sum(axis=1).mean() for block, mean in zip(blocks, means, strict=True)]
    factors = [1 / np.sqrt(max(float(length), 1e-12) * len(blocks)) for length in lengths]
    widths = [block.shape[1] for block in blocks]
    return np.concatenate(means), np.repeat(np.array(factors, np.float32), widths)


def _combined(
    rows: Rows, fold: Indices, folds: int, offsets: Floats
) -> tuple[Floats, float, Floats, NDArray[np.bool_]]:
    """The mean of all kinds of heads, each calibrated; `offsets` are the start's logits for the rows.

    Images whose category all other folds lack tell nothing of how far to trust a head, and calibrate none.
    Returns (weights, the start's share, out-of-fold logits, which images have them).
    """
    categories, labels = offsets.shape[1], rows.labels
    plain, start = rows.coordinates[: len(labels)], offsets[: len(labels)]
    solved_folds = max(1, min(folds, int(CELLS // max(1, rows.coordinates.size * categories))))
    solved = fold < solved_folds
    telling = solved & _elsewhere(labels, fold)
    kinds = _kinds(rows, fold, offsets)
    weights: list[Floats] = []
    shares: list[float] = []
    logits: list[Floats] = []
    for kind in kinds:
        predicted = np.zeros((len(labels), categories), np.float32)
        for number in range(solved_folds):
            out = fold == number
            predicted[out] = logistic.apply(plain[out], kind.solve(number))
        own = 1.0 if kind.around or not start.any() else fit_temperature(predicted[telling], labels[telling])
        predicted = predicted / np.float32(own) + start
        temperature = fit_temperature(predicted[telling], labels[telling])
        logits.append(predicted / np.float32(temperature))
        shares.append(1 / temperature)
        weights.append(kind.solve(NO_FOLD) / np.float32(own * temperature))
    if not kinds[-1].trusted:
        with_it, without = (_cooled_loss(one[telling], labels[telling]) for one in (np.mean(logits, axis=0), logits[0]))
        if not with_it < without:
            del weights[1:], shares[1:], logits[1:]
    return np.mean(weights, axis=0), float(np.mean(shares)), np.mean(logits, axis=0), solved


def _elsewhere(labels: Indices, fold: Indices) -> NDArray[np.bool_]:
    """Which images have others of their category in other folds."""
    counts = np.zeros((labels.max() + 1, fold.max() + 1), np.int64)
    np.add.at(counts, (labels, fold), 1)
    return counts.sum(axis=1)[labels] > counts[labels, fold]


def _cooled_loss(logits: Floats, labels: Indices) -> float:
    """The mean log loss at the best temperature; infinite without images."""
    if not len(labels):
        return np.inf
    return float(logistic.log_losses(logits / np.float32(fit_temperature(logits, labels)), labels).mean())


def _kinds(rows: Rows, fold: Indices, offsets: Floats) -> list[Kind]:
    """A discriminant needs several images per category, in every training part; a few rare ones make it uncertain."""
    of_row, labels, categories = fold[rows.image], rows.labels[rows.image], offsets.shape[1]

    def regression(number: int) -> Floats:
        train = of_row != number
        return logistic.solve(rows.coordinates[train], labels[train], categories, offsets[train])

    counts = np.bincount(rows.labels[fold != 0], minlength=categories)
    counts = counts[counts > 0]
    if np.median(counts) < DISCRIMINANT_IMAGES or rows.coordinates.shape[1] > DISCRIMINANT_WIDTH:
        return [Kind(regression)]
    every = Moments.of(rows.coordinates, labels, categories)

    def discriminant(number: int) -> Floats:
        out = of_row == number
        return every.without(Moments.of(rows.coordinates[out], labels[out], categories)).solve(rows.width)

    trusted = bool(counts.min() >= DISCRIMINANT_IMAGES)
    return [Kind(regression), Kind(discriminant, around=False, trusted=trusted)]
