"""The head on frozen features that ships with a fine-tuned network, and the blend of their predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from services.trainer.engine.classification.heads import LinearHead
from services.trainer.engine.classification.linear_head import linear, rows_of
from services.trainer.engine.classification.logistic import log_losses
from services.trainer.engine.classification.measure import fit_temperature
from services.trainer.engine.classification.names import NO_NAMES, Names, fit_named_head
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.pretrained import LoadedBackbone, middle_blocks
from services.trainer.engine.split import Partition
from services.trainer.name_use import NO_NAME_USE, NameUse

SHARES = (0.25, 0.5, 0.75, 1.0)  # of a fine-tuned network in the answer


@dataclass(frozen=True, slots=True)
class Companion:
    """Frozen networks, and the head on them; all logits are calibrated."""

    backbones: Sequence[LoadedBackbone]
    head: LinearHead  # fitted on all folds; its logits are divided by `temperature`
    temperature: float
    selection: Floats  # [first fold, categories], from a head that was fitted without the first fold
    held_out: Floats
    names: NameUse = NO_NAME_USE

    def joined(self, tuned: nn.Linear, blend: "Blend") -> nn.Linear:
        """A single layer on the fine-tuned and the frozen features that predicts what the blend does."""
        own, others = blend.share / blend.temperature, (1 - blend.share) / self.temperature
        weight = np.concatenate([own * tuned.weight.numpy(force=True), others * self.head.weight], axis=1)
        bias = own * tuned.bias.numpy(force=True) + others * self.head.bias
        return linear(weight.astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights of a fine-tuned network and its companion."""

    share: float  # of the network
    temperature: float  # that the network's logits are divided by

    def logits(self, tuned: Floats, companion: Floats) -> Floats:
        """[images, categories]"""
        mixed = self.share / self.temperature * tuned + (1 - self.share) * companion
        return mixed.astype(np.float32)


def fit_companion(
    backbones: Sequence[LoadedBackbone],
    views: Sequence[Sequence[Floats]],
    labels: Indices,
    partition: Partition,
    categories: int,
    names: Names = NO_NAMES,
) -> Companion:
    """Fits on the blocks of each view, of all images."""
    middle = middle_blocks(backbones)
    rows, fold, folds = partition.trainable, partition.fold, partition.folds
    whole, use = _fitted(views, labels, rows, fold, folds, categories, middle, names)
    part = fit_on_other_folds(views, labels, partition, categories, middle, names)
    known = labels[partition.trainable][whole.solved]
    temperature = fit_temperature(whole.out_of_fold[whole.solved], known)
    selection, held_out = rows_of(views[0], partition.first_fold), rows_of(views[0], partition.held_out)
    return Companion(
        backbones,
        whole,
        temperature,
        _cooled(part.logits(selection), temperature),
        _cooled(whole.logits(held_out), temperature),
        use,
    )


def _cooled(logits: Floats, temperature: float) -> Floats:
    return (logits / temperature).astype(np.float32)


def fit_on_other_folds(
    views: Sequence[Sequence[Floats]],
    labels: Indices,
    partition: Partition,
    categories: int,
    middle: Sequence[bool] = (),
    names: Names = NO_NAMES,
) -> LinearHead:
    """A head fitted without the first fold."""
    others = partition.fold[partition.fold != 0] - 1
    fold, folds = (others, partition.folds - 1) if partition.folds > 2 else (np.arange(len(others)) % 2, 2)
    return _fitted(views, labels, partition.other_folds, fold, folds, categories, middle, names)[0]


def blended(tuned: Floats, companion: Floats, labels: Indices) -> Blend:
    """The blend with the lowest log loss on these images, which neither was trained on."""
    temperature = fit_temperature(tuned, labels)
    blends = [Blend(share, temperature) for share in SHARES]
    losses = [float(log_losses(blend.logits(tuned, companion), labels).mean()) for blend in blends]
    return blends[int(np.argmin(losses))]


def _fitted(
    views: Sequence[Sequence[Floats]],
    labels: Indices,
    rows: Indices,
    fold: Indices,
    folds: int,
    categories: int,
    middle: Sequence[bool],
    names: Names,
) -> tuple[LinearHead, NameUse]:
    chosen = [rows_of(blocks, rows) for blocks in views]
    return fit_named_head(chosen, labels[rows], fold, folds, categories, middle, names)
