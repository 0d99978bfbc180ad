"""A fine-tuning's parts, and how they are set up: images, network, linear head, optimizer."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from services.trainer.engine import state as checkpoints
from services.trainer.engine.batches import KEPT_BYTES, Batches, augmentation
from services.trainer.engine.data import Images, Indices, open_images, require_trainable
from services.trainer.engine.features import Extractor
from services.trainer.engine.linear import Floats, log_losses
from services.trainer.engine.pace import Pace, Part
from services.trainer.engine.rung0 import fit_head, readable
from services.trainer.engine.session import Session
from services.trainer.engine.split import Parts, divide
from services.trainer.engine.state import Candidate, Position, State
from services.trainer.engine.trunks import Trunk, load_trunks
from services.trainer.protocol import Depth, Started, TrainTask
from services.vision.backbones import Network

FROZEN_NORM_BELOW = 5_000  # training images: batch statistics of fewer are worse than the pretrained ones
EVALUATION_BATCH = 16
TRAIN_LOW, TRAIN_HIGH = 0.1, 0.95  # of the progress bar
LAST_STAGES = 2
DELIVERY_SECONDS = 1.0  # to write a result, before that was measured,
CELL_SECONDS = 1e-4  # and for each score that its report resamples
FRUGAL = 8  # times less is kept in memory by an attempt whose predecessors died


@dataclass(slots=True)
class Training:
    """One fine-tuning's parts."""

    task: TrainTask
    session: Session
    images: Images
    trunk: Trunk
    parts: Parts
    batches: Batches
    state: State
    pace: Pace
    frozen_norm: bool
    micro_batch: int

    @property
    def batch_size(self) -> int:
        """The effective one."""
        return min(self.task.recipe.batch_size, len(self.parts.other_folds))

    @property
    def delivery_seconds(self) -> float:
        """What predicting the hold-out and writing a result are expected to take now."""
        return len(self.parts.held_out) * self.pace.expected(Part.PREDICT) + self.pace.expected(Part.DELIVER)

    @property
    def validation_seconds(self) -> float:
        """What a validation is expected to take now."""
        return len(self.parts.first_fold) * self.pace.expected(Part.PREDICT)

    @property
    def end_seconds(self) -> float:
        """What is expected to follow the last step: a validation, and the delivery."""
        return self.validation_seconds + self.delivery_seconds

    @torch.inference_mode()
    def predict(self, network: Network, rows: Indices, then_seconds: float = -math.inf) -> Floats:
        """Logits [rows, categories] of the plain inputs; OutOfTime once less than `then_seconds` would be left."""
        network.eval()
        out = [np.empty((0, len(self.images.categories)), np.float32)]
        with self.pace.timed(Part.PREDICT, len(rows)):
            for inputs, _ in self.batches.plain(rows, min(EVALUATION_BATCH, self.micro_batch)):
                self.pace.require(then_seconds)
                logits = network(inputs.to(self.task.device, memory_format=torch.channels_last))
                out.append(logits.float().cpu().numpy())
        return np.concatenate(out)


def prepared(task: TrainTask, session: Session) -> Training:
    """Everything before the first step, or before a checkpoint is restored.

    With pretrained weights and a recipe that wants it, the head is the one that rung 0 would fit on the training
    folds, and the network with that head is the first candidate. DatasetCorrupt for too many unreadable images.
    """
    images = open_images(Path(task.directory), task.dataset)
    require_trainable(images)
    session.send(Started(image_count=len(images.samples), seconds_used=session.meter.used()))
    (trunk,) = load_trunks(task, images)
    recipe, network = task.recipe, trunk.network.to(task.device)
    parts = divide(images.labels, task.split)
    how = augmentation(recipe.augmentation, mirror=recipe.mirror)
    kept_bytes = KEPT_BYTES // FRUGAL if task.batch_size_limit else KEPT_BYTES
    batches = Batches(images, trunk.rule, how, task.seed, task.threads, kept_bytes)
    features: Floats | None = None
    if task.checkpoint_path:
        images.unreadable.update(checkpoints.unreadable(Path(task.checkpoint_path)))
    elif recipe.linear_head and trunk.weights.pretrained:
        (features,) = Extractor(task, session, images, [trunk], 1).run(0.0, TRAIN_LOW)
        batches.look_at(parts.other_folds, parts.other_folds)  # no step waits for decoding
    else:
        batches.look_at(np.arange(len(images.samples)), parts.other_folds)
    images.require_readable()
    parts = readable(parts, np.array([i not in images.unreadable for i in range(len(images.samples))], np.bool_))
    position, candidate = Position(), None
    if features is not None:
        candidate = _linear_candidate(network, features, images, parts)
        loss = float(log_losses(candidate.logits, images.labels[parts.first_fold]).mean())
        position = Position(best_loss=loss, candidate_step=0)
    stages = len(network.backbone.stage_starts)
    network.unfreeze({Depth.HEAD: 0, Depth.LAST_STAGES: LAST_STAGES, Depth.ALL: stages}[recipe.depth])
    average = copy.deepcopy(network).requires_grad_(False)
    pace = Pace(session.meter)
    cells = len(parts.first_fold) * len(images.categories)
    pace.took(Part.DELIVER, DELIVERY_SECONDS + CELL_SECONDS * cells)
    return Training(
        task=task,
        session=session,
        images=images,
        trunk=trunk,
        parts=parts,
        batches=batches,
        state=State(network, average, optimizer(network, task), position, candidate),
        pace=pace,
        frozen_norm=trunk.weights.pretrained and len(parts.other_folds) < FROZEN_NORM_BELOW,
        micro_batch=min(recipe.batch_size, task.batch_size_limit or recipe.batch_size),
    )


def optimizer(network: Network, task: TrainTask) -> torch.optim.AdamW:
    """Weight decay on matrices and kernels alone."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": task.recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=task.recipe.learning_rate)


def _linear_candidate(network: Network, features: Floats, images: Images, parts: Parts) -> Candidate:
    """Puts a head that was fitted on the training folds, never on the first, into the network."""
    rows, others = parts.other_folds, parts.fold[parts.fold != 0] - 1
    folds, categories = max(2, parts.folds - 1), len(images.categories)
    fold = others if parts.folds > 2 else np.arange(len(rows)) % 2
    head = fit_head([features[rows]], images.labels[rows], fold, folds, categories, (features.shape[1],))
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weight))
        network.head.bias.copy_(torch.from_numpy(head.bias))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return Candidate(weights, head.logits(features[parts.first_fold]), head.logits(features[parts.held_out]))
