"""The vision task of classifiers: which category an image shows."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from services.kit.errors import InvalidRequest
from services.trainer.engine.classification import result
from services.trainer.engine.classification.batches import Batches, augmentation
from services.trainer.engine.classification.companion import Companion, fit_companion, fit_on_other_folds
from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.fuse import folded
from services.trainer.engine.classification.linear_head import begin_with
from services.trainer.engine.classification.logistic import log_losses
from services.trainer.engine.classification.measure import calibrated_across, fit_temperature
from services.trainer.engine.classification.names import read_names
from services.trainer.engine.classification.near_duplicates import divided
from services.trainer.engine.data import Floats, Images, Indices, open_images, require_trainable
from services.trainer.engine.loop import checkpoint as checkpoints
from services.trainer.engine.loop.checkpoint import Candidate, Position
from services.trainer.engine.loop.numerics import Numerics
from services.trainer.engine.loop.task import Batch, BatchRequest, Found, Loss, Outputs, Truths, freeze_norms
from services.trainer.engine.loop.together import look_at
from services.trainer.engine.loop.training import FROZEN_NORM_BELOW, PREPARED, Start
from services.trainer.engine.prefetch import kept_bytes
from services.trainer.engine.pretrained import LoadedBackbone, load_backbones, origin, tunable
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition, bounded, divide, readable
from services.trainer.messages import Result, TrainTask
from services.trainer.name_use import NO_NAME_USE
from services.trainer.recipe import MIN_HELD_OUT_FROM, Depth
from services.vision.backbones import Network
from services.vision.classifier import ClassifierNetwork
from services.vision.memory import BatchLimit

LAST_STAGES = 2
CHOSEN_BY = (
    "The metrics are of images by which the length of the training was chosen, as some category has too few images to "
    f"set any aside: a test dataset, or {MIN_HELD_OUT_FROM} images of every category, gives independent ones."
)


@dataclass(slots=True)
class ClassificationTask:
    """Outputs are `logits` [images, categories]; the validation loss is the mean log loss."""

    task: TrainTask
    session: Session
    images: Images
    partition: Partition
    backbone: LoadedBackbone  # whose network is fine-tuned
    companion: Companion | None
    data: Batches
    report_seconds: float
    numerics: Numerics = field(default_factory=Numerics)
    _folded: tuple[nn.Module, nn.Module] | None = None  # the network that trains, and how it computes

    @property
    def max_epochs(self) -> int:
        """The recipe's."""
        return self.task.recipe.max_epochs

    def batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """Augmented views and their labels."""
        return self.data.training(requests)

    def start_training(self, network: nn.Module) -> None:
        """Sets the network to training mode; it knows which of its stages train."""
        network.train()
        if self.backbone.weights.pretrained and len(self.partition.other_folds) < FROZEN_NORM_BELOW:
            freeze_norms(network)

    def look_at(self, rows: Indices, keep: Indices) -> None:
        """See `Batches.look_at`."""
        self.data.look_at(rows, keep)

    def loss(self, network: nn.Module, inputs: Tensor, truths: Truths) -> Loss:
        """Smoothed cross-entropy."""
        assert isinstance(truths, Tensor), "labels"
        device, recipe = self.task.device, self.task.recipe
        with self.numerics.autocast(device):
            logits: Tensor = self._computing(network)(self.numerics.arranged(inputs, device))
        total = nn.functional.cross_entropy(
            logits.float(), truths.to(device), label_smoothing=recipe.label_smoothing, reduction="sum"
        )
        return Loss(total, 0, len(inputs))

    def _computing(self, network: nn.Module) -> nn.Module:
        """The network, or on a CPU what computes the same faster; it is in the modes in which it trains."""
        if self.task.device != "cpu" or not isinstance(network, Network):
            return network
        if self._folded is None or self._folded[0] is not network:
            self._folded = network, folded(network)
        return self._folded[1]

    @torch.inference_mode()
    def predict(self, network: nn.Module, rows: Indices, size: int, before_each: Callable[[], None]) -> Outputs:
        """Logits of inputs as prediction sees them."""
        network.eval()
        limit = BatchLimit(size)
        out = [np.empty((0, len(self.images.categories)), np.float32)]
        for inputs, _ in self.data.plain(rows, size):
            before_each()
            out += limit.pieces(inputs, lambda piece: self._logits(network, piece))
        return {"logits": np.concatenate(out)}

    def _logits(self, network: nn.Module, inputs: Tensor) -> Floats:
        logits: Tensor = network(inputs.to(self.task.device, memory_format=torch.channels_last))
        return logits.float().cpu().numpy()

    def validation_loss(self, outputs: Outputs) -> float | None:
        """The mean log loss."""
        logits, labels = outputs["logits"], self.images.labels[self.partition.first_fold]
        return float(log_losses(logits, labels).mean())

    def finish(self, found: Found, directory: Path) -> Result:
        """The temperature is fitted on the first fold; the performance is of the hold-out, if there is one."""
        assert isinstance(found.network, Network), "a classifier's"
        selection, held_out = found.selection["logits"], found.held_out["logits"]
        labels = self.images.labels[self.partition.first_fold]
        cards = (self.backbone.card(frozen=False, normalised=found.network.normalised),)
        network = None
        if self.companion is not None:
            both = self.companion.combined(self.backbone, found.network, selection, held_out, labels)
            network, cards, selection, held_out = both.network, both.cards, both.selection, both.held_out
        temperature = fit_temperature(selection, labels)
        unmeasured = self.task.split.holdout_fraction > 0 and not len(self.partition.held_out)
        notes = (self.backbone.weights.note, *found.notes, CHOSEN_BY if unmeasured else "")
        finished = result.Finished(
            network=network or ClassifierNetwork(cards, [found.network], found.network.head),
            cards=cards,
            temperature=temperature,
            selected=self.partition.first_fold,
            selection_logits=calibrated_across(selection, labels, np.arange(len(labels)) % 2),
            held_out=self.partition.held_out,
            held_out_logits=held_out / np.float32(temperature),
            warnings=tuple(filter(None, notes)),
            weights_source=origin([self.backbone]),
            resolution=self.backbone.rule.size,
            stop_reason="allowance",
            epochs=found.epochs,
            steps=found.steps,
            names=self.companion.names if self.companion else NO_NAME_USE,
        )
        return result.finish(self.task, self.session, self.images, finished, directory)


def start(task: TrainTask, session: Session) -> Start:
    """With pretrained weights and a recipe that wants it, training starts from a linear head.

    The network with that head is then the first candidate, and a companion on frozen features ships with it.
    Raises DatasetCorrupt for too many unreadable images.
    """
    if task.recipe.refit:
        raise InvalidRequest(field="recipe.refit", problem="only detectors are trained on every fold")
    images = open_images(Path(task.directory), task.dataset)
    require_trainable(images)
    if task.checkpoint_path:
        images.unreadable.update(checkpoints.unreadable(Path(task.checkpoint_path)))
    backbones = load_backbones(task, images)
    backbone = tunable(backbones[0], task)
    network, how = backbone.network, augmentation(task.recipe.augmentation, mirror=task.recipe.mirror)
    batches = Batches(images, backbone.rule, how, task.seed, task.threads, kept_bytes(task))
    companion = candidate = None
    labels = images.labels
    partition = divide(labels, task.split, bounded(images.groups, list(labels[:, None]), task.split.folds))
    if task.recipe.linear_head and backbone.weights.pretrained:
        companion, candidate, partition = _linear_start(task, session, images, backbones, network)
    if not task.checkpoint_path:
        rows = partition.other_folds if companion else np.arange(len(images.samples))
        look_at(session, images, batches.look_at, rows, partition.other_folds)  # no step waits to decode
    images.require_readable()
    partition = readable(partition, images.sound())
    report_seconds = result.report_seconds(len(partition.first_fold), len(images.categories))
    vision_task = ClassificationTask(task, session, images, partition, backbone, companion, batches, report_seconds)
    position = Position()
    if candidate is not None:
        position = Position(best_loss=vision_task.validation_loss(candidate.selection), candidate_step=0)
    stages = len(network.backbone.stage_starts)
    depths = {Depth.HEAD: 0, Depth.LAST_STAGES: LAST_STAGES, Depth.ALL: stages}
    if task.recipe.depth not in depths:
        raise InvalidRequest(field="recipe.depth", problem=f"a classifier has no {task.recipe.depth}")
    network.unfreeze(depths[task.recipe.depth])
    return Start(vision_task, network, position, candidate)


def _linear_start(
    task: TrainTask, session: Session, images: Images, backbones: list[LoadedBackbone], network: Network
) -> tuple[Companion, Candidate, Partition]:
    """The companion, a first candidate (the network with a head that was fitted without the first fold), the folds."""
    for backbone in backbones:
        backbone.network.to(task.device).eval()
    names = read_names(task, backbones, images.categories)
    views = Extractor(task, session, images, backbones, task.recipe.views).run(0.0, PREPARED)
    partition = divided(views[0][0], images, task.split, images.sound())
    categories = len(images.categories)
    first = [blocks[:1] for blocks in views]
    head = fit_on_other_folds(first, images.labels, partition, categories, names=names.of_first())
    begin_with(network, head)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    selection, held_out = (head.logits([views[0][0][rows]]) for rows in (partition.first_fold, partition.held_out))
    companion = fit_companion(backbones, views, images.labels, partition, categories, names)
    return companion, Candidate(weights, {"logits": selection}, {"logits": held_out}), partition
