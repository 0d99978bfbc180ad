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
from services.vision.backbones import Network
from services.vision.card import CardBackbone
from services.vision.classifier import ClassifierNetwork

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a fine-tuned network in the answer


@dataclass(frozen=True, slots=True)
class Companion:
    """Frozen networks, and the head on them; all logits are calibrated."""

    backbones: Sequence[LoadedBackbone]
    head: LinearHead  # fitted on all folds; its logits are divided by `temperature`
    temperature: float
    selection: Floats  # [selected images, categories], from heads that were fitted without them
    held_out: Floats
    names: NameUse = NO_NAME_USE

    def combined(
        self, own: LoadedBackbone, network: Network, selection: Floats, held_out: Floats, labels: Indices
    ) -> "Combined":
        """The bundle of the fine-tuned network and the frozen ones, and its logits; `labels` are of the selection."""
        blend = blended(selection, self.selection, labels)
        cards = (own.card(frozen=False, normalised=network.normalised), *(one.card(shift=1) for one in self.backbones))
        networks = [network, *(backbone.network for backbone in self.backbones)]
        joined = self.joined(network.head, blend)
        return Combined(
            ClassifierNetwork(cards, networks, joined),
            cards,
            blend.logits(selection, self.selection),
            blend.logits(held_out, self.held_out),
        )

    def joined(self, tuned: nn.Linear, blend: "Blend") -> nn.Linear:
        """A single layer on the fine-tuned and the frozen features that predicts what the blend does."""
        own, others = blend.share / blend.temperature, (1 - blend.share) / self.temperature
        weight = np.concatenate([own * tuned.weight.numpy(force=True), others * self.head.weight], axis=1)
        bias = own * tuned.bias.numpy(force=True) + others * self.head.bias
        return linear(weight.astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Combined:
    """A network that answers as the blend does, and its logits for images that it was not trained on."""

    network: ClassifierNetwork
    cards: tuple[CardBackbone, ...]
    selection: Floats
    held_out: Floats


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
    *,
    crossed: bool = False,
) -> Companion:
    """Fits on the blocks of each view, of all images.

    The selection is the first fold; if `crossed`, every image, predicted out of fold.
    """
    middle = middle_blocks(backbones)
    whole, use = fit_on_all(views, labels, partition, categories, middle, names)
    if crossed:
        selection = whole.out_of_fold
    else:
        part = fit_on_other_folds(views, labels, partition, categories, middle, names=names)
        selection = part.logits(rows_of(views[0], partition.first_fold))
    temperature = fit_temperature(whole.out_of_fold[whole.solved], labels[partition.trainable][whole.solved])
    held_out = whole.logits(rows_of(views[0], partition.held_out))
    selection, held_out = _cooled(selection, temperature), _cooled(held_out, temperature)
    return Companion(backbones, whole, temperature, selection, held_out, use)


def _cooled(logits: Floats, temperature: float) -> Floats:
    return (logits / temperature).astype(np.float32)


def fit_on_all(
    views: Sequence[Sequence[Floats]],
    labels: Indices,
    partition: Partition,
    categories: int,
    middle: Sequence[bool] = (),
    names: Names = NO_NAMES,
) -> tuple[LinearHead, NameUse]:
    """A head fitted on every fold, and what it made of the names."""
    rows, fold, folds = partition.trainable, partition.fold, partition.folds
    return _fitted(views, labels, rows, fold, folds, categories, middle, names)


def fit_on_other_folds(
    views: Sequence[Sequence[Floats]],
    labels: Indices,
    partition: Partition,
    categories: int,
    middle: Sequence[bool] = (),
    without: int = 0,
    names: Names = NO_NAMES,
) -> LinearHead:
    """A head fitted without one fold, by default the first."""
    kept = partition.fold != without
    others = partition.fold[kept] - (partition.fold[kept] > without)
    fold, folds = (others, partition.folds - 1) if partition.folds > 2 else (np.arange(len(others)) % 2, 2)
    return _fitted(views, labels, partition.trainable[kept], fold, folds, categories, middle, names)[0]


def blended(tuned: Floats, companion: Floats, labels: Indices) -> Blend:
    """The blend that surely has a low log loss on these images, which neither was trained on.

    That is the one with the largest gain over the companion alone, less the gain's standard error.
    """
    temperature = fit_temperature(tuned, labels)
    blends = [Blend(share, temperature) for share in SHARES]
    alone = log_losses(companion, labels)

    def sure_gain(blend: Blend) -> float:
        gains = alone - log_losses(blend.logits(tuned, companion), labels)
        return float(gains.mean() - gains.std() / len(labels) ** 0.5)

    return max(blends, key=sure_gain)


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
