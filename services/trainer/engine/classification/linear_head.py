"""Rung 0: a regularised linear head on the features of frozen networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.measure import calibrated_across, fit_temperature
from services.trainer.engine.classification.result import Finished, finish
from services.trainer.engine.data import Floats, Images, Indices, open_images, require_trainable
from services.trainer.engine.pretrained import LoadedBackbone, load_backbones, origin
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition, divide, readable
from services.trainer.messages import Result, TrainTask
from services.trainer.recipe import Throughput
from services.vision.classifier import ClassifierNetwork

FEATURES_SHARE = 0.8  # of the progress bar


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A head over raw, unscaled features, and what cross-validation predicted out of fold for the images it saw."""

    weight: Floats  # [categories, width]
    bias: Floats  # [categories]
    choice: logistic.Choice

    def logits(self, features: Floats) -> Floats:
        """[images, categories]"""
        return features @ self.weight.T + self.bias


def fit_head(
    views: Sequence[Floats], labels: Indices, fold: Indices, folds: int, categories: int, widths: tuple[int, ...]
) -> LinearHead:
    """Chooses the penalty by cross-validation over images (all views of one in one fold), then fits on all of them."""
    features = np.concatenate(views)
    scaling = logistic.fit_scaling(features, widths)
    rows, basis = logistic.rotated((features - scaling.mean) * scaling.factor)
    repeated, of_image = np.tile(labels, len(views)), np.tile(np.arange(len(labels)), len(views))
    choice = logistic.choose(rows, repeated, np.tile(fold, len(views)), categories, folds, of_image=of_image)
    everything = np.ones((1, len(rows)), bool)
    solution = logistic.solve(rows, repeated, everything, categories, choice.strength, steps=logistic.FINAL_STEPS)[0]
    weight = solution[:-1] if basis is None else basis.T @ solution[:-1]
    weight = weight * scaling.factor[:, None]
    bias = solution[-1] - scaling.mean @ weight
    return LinearHead(np.ascontiguousarray(weight.T), bias, choice)


def train_head(task: TrainTask, session: Session) -> Result:
    """The whole task; the hold-out, where there is one, is looked at after everything is chosen."""
    images = open_images(Path(task.directory), task.dataset)
    require_trainable(images)
    backbones = load_backbones(task, images)
    for backbone in backbones:
        backbone.network.to(task.device).eval()
    extractor = Extractor(task, session, images, backbones, task.recipe.views)
    views = extractor.run(0.0, FEATURES_SHARE)

    partition = divide(images.labels, task.split)
    partition = readable(partition, sound_rows(views[0]))
    session.progress("fit", 0.0, FEATURES_SHARE, 0.95)
    labels = images.labels[partition.trainable]
    chosen = [view[partition.trainable] for view in views]
    widths = tuple(backbone.width for backbone in backbones)
    head = fit_head(chosen, labels, partition.fold, partition.folds, len(images.categories), widths)
    finished = _finished(images, backbones, partition, head, views[0], extractor.work.images_per_second)
    session.progress("bundle", 0.0, 0.95, 1.0)
    result = finish(task, session, images, finished, Path(task.output_directory))
    fixed = result.used.total_seconds() - extractor.work.seconds
    return msgspec.structs.replace(result, throughput=msgspec.structs.replace(result.throughput, fixed_seconds=fixed))


def sound_rows(features: Floats) -> NDArray[np.bool_]:
    """Which images could be read."""
    return np.asarray(np.isfinite(features).all(axis=1), np.bool_)


def _finished(
    images: Images,
    backbones: list[LoadedBackbone],
    partition: Partition,
    head: LinearHead,
    features: Floats,
    pace: float | None,
) -> Finished:
    """The head calibrated, and the hold-out predicted: the first time that anything looks at it."""
    solved = head.choice.solved
    labels, out_of_fold = images.labels[partition.trainable][solved], head.choice.logits[solved]
    temperature = fit_temperature(out_of_fold, labels)
    return Finished(
        network=ClassifierNetwork([backbone.network for backbone in backbones], _linear(head.weight, head.bias)),
        cards=tuple(backbone.card() for backbone in backbones),
        temperature=temperature,
        selected=partition.trainable[solved],
        selection_logits=calibrated_across(out_of_fold, labels, partition.fold[solved]),
        held_out=partition.held_out,
        held_out_logits=head.logits(features[partition.held_out]) / np.float32(temperature),
        warnings=tuple(backbone.weights.note for backbone in backbones if backbone.weights.note),
        weights_source=origin(backbones),
        resolution=max(backbone.rule.size for backbone in backbones),
        stop_reason="converged",
        throughput=Throughput(forward_images_per_second=pace),
    )


def _linear(weight: Floats, bias: Floats) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(_tensor(weight))
        head.bias.copy_(_tensor(bias))
    return head


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
