"""The vision task of classifiers: which of the categories an image shows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from services.kit.errors import InvalidRequest
from services.trainer.engine.classification import result
from services.trainer.engine.classification.batches import Batches, augmentation
from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.linear_head import fit_head
from services.trainer.engine.classification.logistic import log_losses
from services.trainer.engine.classification.measure import calibrated_across, fit_temperature
from services.trainer.engine.data import Floats, Images, Indices, open_images, require_trainable
from services.trainer.engine.loop import checkpoint as checkpoints
from services.trainer.engine.loop.checkpoint import Candidate, Position
from services.trainer.engine.loop.task import Batch, BatchRequest, Found, Outputs, Truths, freeze_norms
from services.trainer.engine.loop.training import FROZEN_NORM_BELOW, PREPARED, Start
from services.trainer.engine.prefetch import kept_bytes
from services.trainer.engine.pretrained import LoadedBackbone, load_backbones, origin
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition, divide, readable
from services.trainer.messages import Result, TrainTask
from services.trainer.recipe import Depth
from services.vision.backbones import Network
from services.vision.classifier import ClassifierNetwork

LAST_STAGES = 2
REPORT_SECONDS = 1.0  # to write a result,
CELL_SECONDS = 1e-4  # and for each score that its report resamples


@dataclass(slots=True)
class ClassificationTask:
    """Outputs are `logits` [images, categories]; the validation loss is the mean log loss."""

    task: TrainTask
    session: Session
    images: Images
    partition: Partition
    backbone: LoadedBackbone
    data: Batches
    report_seconds: float

    @property
    def max_epochs(self) -> int:
        """As the recipe has it."""
        return self.task.recipe.max_epochs

    def batches(self, requests: Sequence[BatchRequest]) -> Iterator[Batch]:
        """Augmented views, and their labels."""
        return self.data.training(requests)

    def start_training(self, network: nn.Module) -> None:
        """The network itself knows which of its stages train."""
        network.train()
        if self.backbone.weights.pretrained and len(self.partition.other_folds) < FROZEN_NORM_BELOW:
            freeze_norms(network)

    def loss(self, network: nn.Module, inputs: Tensor, truths: Truths) -> Tensor:
        """Cross entropy, smoothed."""
        assert isinstance(truths, Tensor), "labels"
        logits = network(inputs.to(self.task.device, memory_format=torch.channels_last))
        smoothing = self.task.recipe.label_smoothing
        return nn.functional.cross_entropy(logits, truths.to(self.task.device), label_smoothing=smoothing)

    def effort(self, inputs: Tensor) -> float:
        """All batches are alike."""
        del inputs
        return 1.0

    @torch.inference_mode()
    def predict(self, network: nn.Module, rows: Indices, size: int, before_each: Callable[[], None]) -> Outputs:
        """Logits of the plain inputs."""
        network.eval()
        out = [np.empty((0, len(self.images.categories)), np.float32)]
        for inputs, _ in self.data.plain(rows, size):
            before_each()
            logits = network(inputs.to(self.task.device, memory_format=torch.channels_last))
            out.append(logits.float().cpu().numpy())
        return {"logits": np.concatenate(out)}

    def validation_loss(self, outputs: Outputs) -> float | None:
        """The mean log loss."""
        logits, labels = outputs["logits"], self.images.labels[self.partition.first_fold]
        return float(log_losses(logits, labels).mean())

    def finish(self, found: Found, directory: Path) -> Result:
        """The temperature is the first fold's; the numbers are of the hold-out where there is one."""
        assert isinstance(found.network, Network), "a classifier's"
        logits, labels = found.selection["logits"], self.images.labels[self.partition.first_fold]
        temperature = fit_temperature(logits, labels)
        note = self.backbone.weights.note
        finished = result.Finished(
            network=ClassifierNetwork([found.network], found.network.head),
            cards=(self.backbone.card(),),
            temperature=temperature,
            selected=self.partition.first_fold,
            selection_logits=calibrated_across(logits, labels, np.arange(len(labels)) % 2),
            held_out=self.partition.held_out,
            held_out_logits=found.held_out["logits"] / np.float32(temperature),
            warnings=(note, *found.notes) if note else found.notes,
            weights_source=origin([self.backbone]),
            resolution=self.backbone.rule.size,
            stop_reason="allowance",
            throughput=found.throughput,
            epochs=found.epochs,
            steps=found.steps,
        )
        return result.finish(self.task, self.session, self.images, finished, directory)


def start(task: TrainTask, session: Session) -> Start:
    """With pretrained weights and a recipe that wants it, from the head that rung 0 would fit on the training folds.

    The network with that head is then the first candidate. DatasetCorrupt for too many unreadable images.
    """
    if task.recipe.refit:
        raise InvalidRequest(field="recipe.refit", problem="only detectors are trained on every fold")
    images = open_images(Path(task.directory), task.dataset)
    require_trainable(images)
    (backbone,) = load_backbones(task, images)
    recipe, network = task.recipe, backbone.network.to(task.device)
    partition = divide(images.labels, task.split)
    how = augmentation(recipe.augmentation, mirror=recipe.mirror)
    batches = Batches(images, backbone.rule, how, task.seed, task.threads, kept_bytes(task))
    features: Floats | None = None
    if task.checkpoint_path:
        images.unreadable.update(checkpoints.unreadable(Path(task.checkpoint_path)))
    elif recipe.linear_head and backbone.weights.pretrained:
        (features,) = Extractor(task, session, images, [backbone], 1).run(0.0, PREPARED)
        batches.look_at(partition.other_folds, partition.other_folds)  # no step waits for decoding
    else:
        batches.look_at(np.arange(len(images.samples)), partition.other_folds)
    images.require_readable()
    partition = readable(partition, images.sound())
    report_seconds = REPORT_SECONDS + CELL_SECONDS * len(partition.first_fold) * len(images.categories)
    vision_task = ClassificationTask(task, session, images, partition, backbone, batches, report_seconds)
    position, candidate = Position(), None
    if features is not None:
        candidate = _linear_candidate(network, features, images, partition)
        position = Position(best_loss=vision_task.validation_loss(candidate.selection), candidate_step=0)
    stages = len(network.backbone.stage_starts)
    depths = {Depth.HEAD: 0, Depth.LAST_STAGES: LAST_STAGES, Depth.ALL: stages}
    if recipe.depth not in depths:
        raise InvalidRequest(field="recipe.depth", problem=f"a classifier has no {recipe.depth}")
    network.unfreeze(depths[recipe.depth])
    return Start(vision_task, network, position, candidate)


def _linear_candidate(network: Network, features: Floats, images: Images, partition: Partition) -> Candidate:
    """Puts a head that was fitted on the training folds, never on the first, into the network."""
    rows, others = partition.other_folds, partition.fold[partition.fold != 0] - 1
    folds, categories = max(2, partition.folds - 1), len(images.categories)
    fold = others if partition.folds > 2 else np.arange(len(rows)) % 2
    head = fit_head([features[rows]], images.labels[rows], fold, folds, categories, (features.shape[1],))
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weight))
        network.head.bias.copy_(torch.from_numpy(head.bias))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, held_out = head.logits(features[partition.first_fold]), head.logits(features[partition.held_out])
    return Candidate(weights, {"logits": first}, {"logits": held_out})
