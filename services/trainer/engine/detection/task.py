"""The vision task of detectors: where objects are, and of which category."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from services.trainer.engine.data import Indices
from services.trainer.engine.detection import measure
from services.trainer.engine.detection.batches import SceneBatches
from services.trainer.engine.detection.class_head import start_from_pretrained_classes
from services.trainer.engine.detection.data import Scenes, open_scenes, require_detectable
from services.trainer.engine.detection.network import Origin, frozen_layers, load_network
from services.trainer.engine.detection.predict import predict
from services.trainer.engine.detection.result import finish, unmeasured_card
from services.trainer.engine.detection.split import divide
from services.trainer.engine.loop import checkpoint as checkpoints
from services.trainer.engine.loop.numerics import Numerics, bfloat16_pays
from services.trainer.engine.loop.task import Batch, BatchRequest, Found, Loss, Outputs, Truths, freeze_norms
from services.trainer.engine.loop.together import look_at
from services.trainer.engine.loop.training import FROZEN_NORM_BELOW, Start
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition, readable
from services.trainer.messages import Result, TrainTask
from services.trainer.recipe import Depth
from services.vision.detector import Detector
from services.vision.detector_network import DetectorNetwork, Targets

REPORT_SECONDS = 1.5


def start(task: TrainTask, session: Session) -> Start:
    """Opens the snapshot, decodes every image once, loads the network.

    The first candidate is a pretrained network whose category outputs could be initialised, if the recipe asks for it.
    Raises DatasetCorrupt for too many unreadable images, InvalidRequest for an unknown depth or network.
    """
    recipe = task.recipe
    scenes = open_scenes(Path(task.directory), task.dataset)
    require_detectable(scenes)
    network, origin = load_network(task, scenes.categories)
    partition = divide(scenes, task.split, refit=recipe.refit)
    batches = SceneBatches.of_recipe(task, scenes, partition.other_folds, origin.rule)
    if task.checkpoint_path:
        scenes.unreadable.update(checkpoints.unreadable(Path(task.checkpoint_path)))
    else:
        rows = np.arange(len(scenes.samples))
        look_at(session, scenes, batches.look_at, rows, partition.other_folds)  # no step waits for decoding
    scenes.require_readable()
    partition = readable(partition, scenes.sound())
    for layer in frozen_layers(network, recipe.depth, origin):
        layer.requires_grad_(False)
    numerics = Numerics(bfloat16=bfloat16_pays(task.device))
    vision_task = DetectionTask(task, session, scenes, partition, origin, batches, numerics)
    network.to(task.device)
    if task.checkpoint_path or not (recipe.linear_head and origin.pretrained):
        return Start(vision_task, network)
    return start_from_pretrained_classes(vision_task, network, origin, batches, task, session.meter)


@dataclass(slots=True)
class DetectionTask:
    """Outputs are detections as columns, see `measure.columns`; predicted by the code that serves."""

    task: TrainTask
    session: Session
    images: Scenes
    partition: Partition
    origin: Origin
    data: SceneBatches
    numerics: Numerics
    report_seconds: float = REPORT_SECONDS

    @property
    def max_epochs(self) -> int:
        """The recipe's, but 0 for a head on frozen random layers, which cannot learn."""
        hopeless = self.task.recipe.depth is Depth.HEAD and not self.origin.pretrained
        return 0 if hopeless else self.task.recipe.max_epochs

    def batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """Augmented views and their targets."""
        return self.data.training(requests)

    def start_training(self, network: nn.Module) -> None:
        """Frozen layers stay in evaluation mode, so that their statistics do not change."""
        assert isinstance(network, DetectorNetwork), "a detector's"
        network.train()
        for layer in frozen_layers(network, self.task.recipe.depth, self.origin):
            layer.eval()
        if self.origin.pretrained and len(self.partition.other_folds) < FROZEN_NORM_BELOW:
            freeze_norms(network)

    def look_at(self, rows: Indices, keep: Indices) -> None:
        """See `SceneBatches.look_at`."""
        self.data.look_at(rows, keep)

    def loss(self, network: nn.Module, inputs: Tensor, truths: Truths) -> Loss:
        """The network's own loss."""
        assert isinstance(network, DetectorNetwork), "a detector's"
        assert not isinstance(truths, Tensor), "targets"
        device = self.task.device
        targets = [Targets(truth.boxes.to(device), truth.labels.to(device)) for truth in truths]
        with self.numerics.autocast(device):
            total, objects = network.summed_loss(self.numerics.arranged(inputs, device), targets)
        return Loss(total, objects, len(inputs))

    def predict(self, network: nn.Module, rows: Indices, size: int, before_each: Callable[[], None]) -> Outputs:
        """The detections that serving would return."""
        assert isinstance(network, DetectorNetwork), "a detector's"
        detector = Detector(unmeasured_card(self.images, self.origin), network, self.task.device)
        return measure.columns(predict(detector, self.images, rows, size, self.task.threads, before_each))

    def validation_loss(self, outputs: Outputs) -> float | None:
        """See `measure.validation_loss`."""
        return measure.validation_loss(self.images, self.partition.first_fold, outputs)

    def finish(self, found: Found, directory: Path) -> Result:
        """See `result.finish`."""
        return finish(self.task, self.session, self.images, self.partition, self.origin, found, directory)
