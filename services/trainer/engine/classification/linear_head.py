"""Rung 0: a combination of linear heads on the features of frozen networks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.heads import LinearHead, mirroring_harms
from services.trainer.engine.classification.learning_curve import learning_curve
from services.trainer.engine.classification.measure import calibrated_across, fit_temperature
from services.trainer.engine.classification.names import fit_named_head, read_names
from services.trainer.engine.classification.near_duplicates import divided
from services.trainer.engine.classification.result import Finished, finish
from services.trainer.engine.data import Floats, Images, Indices, open_images, require_trainable
from services.trainer.engine.pretrained import LoadedBackbone, load_backbones, middle_blocks, origin
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition
from services.trainer.messages import Result, TrainTask
from services.trainer.name_use import NameUse
from services.vision.backbones import Network
from services.vision.classifier import ClassifierNetwork

FEATURES_SHARE = 0.8  # of the progress bar
CURVE_SHARE, CURVE_SECONDS = 0.1, 0.5  # of the time used so far, or this much if that is less
UNMIRRORED_REST = 3  # fits' worth of the allowance that must be left for another, on fewer rows, to begin
CURVE_SHARE_OF_REST = 0.3  # of the rest of the allowance, at most: the bundle is still to be written


def train_head(task: TrainTask, session: Session) -> Result:
    """The whole task. The hold-out, if any, is used only after everything is chosen."""
    images = open_images(Path(task.directory), task.dataset)
    require_trainable(images)
    backbones = load_backbones(task, images)
    for backbone in backbones:
        backbone.network.to(task.device).eval()
    names = read_names(task, backbones, images.categories)
    extractor = Extractor(task, session, images, backbones, task.recipe.views)
    views = extractor.run(0.0, FEATURES_SHARE)

    partition = divided(views[0][0], images, task.split, sound_rows(views[0]))
    session.progress("fit", 0.0, FEATURES_SHARE, 0.95)
    labels = images.labels[partition.trainable]
    chosen = [rows_of(blocks, partition.trainable) for blocks in views]
    categories = len(images.categories)
    middle = middle_blocks(backbones)

    def fit(of: Sequence[list[Floats]]) -> tuple[LinearHead, NameUse]:
        return fit_named_head(of, labels, partition.fold, partition.folds, categories, middle, names)

    began = session.meter.used()
    head, use = fit(chosen)
    fit_seconds = session.meter.used() - began
    session.progress("fit", 0.5, FEATURES_SHARE, 0.95)
    harms = len(chosen) > 1 and mirroring_harms(chosen, labels, partition.fold, partition.folds, categories)
    if harms and session.meter.remaining() > UNMIRRORED_REST * fit_seconds:
        head, use = min((head, use), fit(chosen[:1]), key=lambda fitted: out_of_fold_loss(fitted[0], labels))
    held_out = head.logits(rows_of(views[0], partition.held_out))
    finished = _finished(images, backbones, partition, head, held_out)
    warnings = (*finished.warnings, *([names.note] if names.note else []))
    finished = replace(finished, warnings=warnings, names=use, mirror=not harms)
    curve = learning_curve(
        chosen[0], labels, partition.fold, partition.folds, images.categories, task.seed, curve_limit(session)
    )
    finished = replace(finished, learning_curve=curve)
    session.progress("bundle", 0.0, 0.95, 1.0)
    return finish(task, session, images, finished, Path(task.output_directory))


def curve_limit(session: Session) -> Callable[[], bool]:
    """Whether the learning curve has used its share of the trial's time, or would with one more step like the last."""
    began = session.meter.used()
    share = min(max(CURVE_SHARE * began, CURVE_SECONDS), CURVE_SHARE_OF_REST * session.meter.remaining())
    steps = 0

    def out_of_time() -> bool:
        nonlocal steps
        steps += 1
        spent = session.meter.used() - began
        return spent + spent / steps > share

    return out_of_time


def out_of_fold_loss(head: LinearHead, labels: Indices) -> float:
    """The mean log loss of the predictions that know nothing of their own labels, nats."""
    return float(logistic.log_losses(head.out_of_fold[head.solved], labels[head.solved]).mean())


def sound_rows(blocks: Sequence[Floats]) -> NDArray[np.bool_]:
    """Which images are readable."""
    return np.asarray(np.isfinite(blocks[0]).all(axis=1), np.bool_)


def rows_of(blocks: Sequence[Floats], rows: NDArray[np.int64]) -> list[Floats]:
    """The features of some images, by block."""
    return [block[rows] for block in blocks]


def linear(weight: Floats, bias: Floats) -> nn.Linear:
    """A layer with these weights."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    _fill(head, weight, bias)
    return head


def begin_with(network: Network, head: LinearHead) -> None:
    """Gives the network this head, which reads features of unit length."""
    network.normalised = True
    _fill(network.head, head.weight, head.bias)


def _finished(
    images: Images,
    backbones: list[LoadedBackbone],
    partition: Partition,
    head: LinearHead,
    held_out_logits: Floats,
) -> Finished:
    """The calibrated head, with its predictions for the hold-out."""
    labels, out_of_fold = images.labels[partition.trainable][head.solved], head.out_of_fold[head.solved]
    temperature = fit_temperature(out_of_fold, labels)
    cards = tuple(backbone.card() for backbone in backbones)
    networks = [backbone.network for backbone in backbones]
    return Finished(
        network=ClassifierNetwork(cards, networks, linear(head.weight, head.bias)),
        cards=cards,
        temperature=temperature,
        selected=partition.trainable[head.solved],
        selection_logits=calibrated_across(out_of_fold, labels, partition.fold[head.solved]),
        held_out=partition.held_out,
        held_out_logits=held_out_logits / np.float32(temperature),
        warnings=tuple(
            backbone.weights.note for backbone in backbones if backbone.weights.note and backbone.shares is None
        ),
        weights_source=origin(backbones),
        resolution=max(backbone.rule.size for backbone in backbones),
        stop_reason="converged",
    )


@torch.no_grad()
def _fill(layer: nn.Linear, weight: Floats, bias: Floats) -> None:
    layer.weight.copy_(_tensor(weight))
    layer.bias.copy_(_tensor(bias))


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
