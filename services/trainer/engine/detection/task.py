"""The vision task of detectors: where objects are, and of which category."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from services.kit.errors import InvalidRequest
from services.trainer.engine.data import Indices
from services.trainer.engine.detection import measure
from services.trainer.engine.detection.batches import SceneBatches
from services.trainer.engine.detection.class_head import initialise_class_outputs
from services.trainer.engine.detection.data import Scenes, open_scenes, require_detectable
from services.trainer.engine.detection.precision import bfloat16_pays
from services.trainer.engine.detection.result import finish, unmeasured_card
from services.trainer.engine.detection.split import divide
from services.trainer.engine.detection.start import Origin, load_network
from services.trainer.engine.loop import checkpoint as checkpoints
from services.trainer.engine.loop.checkpoint import Candidate, Position
from services.trainer.engine.loop.task import Batch, BatchRequest, Found, Outputs, Truths, freeze_norms
from services.trainer.engine.loop.timing import OutOfTime
from services.trainer.engine.loop.training import EVALUATION_BATCH, FROZEN_NORM_BELOW, Start
from services.trainer.engine.prefetch import kept_bytes, prefetched
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition, readable
from services.trainer.messages import Result, TrainTask
from services.trainer.recipe import Depth
from services.vision.canvas import fitting_canvas, variation
from services.vision.detector import Detector, Prepared
from services.vision.detector_network import DetectorNetwork, Targets
from services.vision.image_detections import ImageDetections
from services.vision.letterbox import letterbox

REPORT_SECONDS = 1.5
FIRST_SHARE = 0.5  # of the allowance: a network as it came that is not measured by then is no candidate
TRAINED_PARTS = {Depth.HEAD: 1, Depth.NECK: 2, Depth.ALL: 3}  # of head, neck and backbone


@dataclass(slots=True)
class DetectionTask:
    """Outputs are detections as columns, see `measure.columns`; predicted by the very code that serves."""

    task: TrainTask
    session: Session
    images: Scenes
    partition: Partition
    origin: Origin
    data: SceneBatches
    bfloat16: bool
    report_seconds: float = REPORT_SECONDS

    @property
    def max_epochs(self) -> int:
        """As the recipe has it, but none of a head on frozen random layers: there is nothing to be learned."""
        hopeless = self.task.recipe.depth is Depth.HEAD and not self.origin.pretrained
        return 0 if hopeless else self.task.recipe.max_epochs

    def batches(self, requests: Sequence[BatchRequest]) -> Iterator[Batch]:
        """Augmented views and their targets."""
        return self.data.training(requests)

    def start_training(self, network: nn.Module) -> None:
        """What does not train stands still, its statistics too."""
        assert isinstance(network, DetectorNetwork), "a detector's"
        network.train()
        for part in _still(network, self.task.recipe.depth, self.origin):
            part.eval()
        if self.origin.pretrained and len(self.partition.other_folds) < FROZEN_NORM_BELOW:
            freeze_norms(network)

    def loss(self, network: nn.Module, inputs: Tensor, truths: Truths) -> Tensor:
        """The network's own."""
        assert isinstance(network, DetectorNetwork), "a detector's"
        assert not isinstance(truths, Tensor), "targets"
        device = self.task.device
        targets = [Targets(truth.boxes.to(device), truth.labels.to(device)) for truth in truths]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.bfloat16):
            return network.loss(inputs.to(device, memory_format=torch.channels_last), targets)

    def effort(self, inputs: Tensor) -> float:
        """By pixels: training at several scales draws a side for each step."""
        return inputs.shape[-1] * inputs.shape[-2] / self.data.mean_pixels

    def predict(self, network: nn.Module, rows: Indices, size: int, before_each: Callable[[], None]) -> Outputs:
        """The answers that serving would give."""
        assert isinstance(network, DetectorNetwork), "a detector's"
        detector = Detector(unmeasured_card(self.images, self.origin), network, self.task.device)
        order = self._by_shape(rows)
        answers: dict[int, ImageDetections] = {}
        pieces = [order[i : i + size] for i in range(0, len(order), size)]
        for piece, prepared in prefetched(lambda piece: (piece, self._prepared(detector, piece)), pieces, self.threads):
            before_each()
            answers.update(zip(piece.tolist(), detector.predict_prepared(prepared), strict=True))
        return measure.columns([answers[row] for row in rows.tolist()])

    def validation_loss(self, outputs: Outputs) -> float | None:
        """See `measure.validation_loss`."""
        return measure.validation_loss(self.images, self.partition.first_fold, outputs)

    def finish(self, found: Found, directory: Path) -> Result:
        """See `result.finish`."""
        return finish(self.task, self.session, self.images, self.partition, self.origin, found, directory)

    @property
    def threads(self) -> int:
        """That make inputs."""
        return self.data.threads

    def _prepared(self, detector: Detector, rows: Indices) -> list[Prepared]:
        """What can no longer be read, though it could before, is grey: nothing is found in it."""
        made: list[Prepared] = []
        for row in rows.tolist():
            record = self.images.samples[row].record
            pixels = self.images.pixels(row, self.origin.rule.at_least)
            if pixels is None:
                pixels = np.full((record.height, record.width, 3), 128, np.uint8)
            made.append(detector.prepare_pixels(pixels, record.width, record.height))
        return made

    def _by_shape(self, rows: Indices) -> Indices:
        """Inputs of one shape go through the network together."""
        frames = [letterbox(*size, self.origin.rule.size) for size in self.images.sizes(rows)]
        shapes = np.array([(frame.input_width, frame.input_height) for frame in frames], np.int64).reshape(-1, 2)
        return rows[np.lexsort((shapes[:, 0], shapes[:, 1]))]


def start(task: TrainTask, session: Session) -> Start:
    """Opens the snapshot, decodes every image once, loads the network. DatasetCorrupt for too many unreadable ones.

    A pretrained network whose category outputs could be begun with is the first candidate.
    Raises InvalidRequest for a depth or a network that there is not.
    """
    recipe = task.recipe
    if recipe.depth not in TRAINED_PARTS:
        raise InvalidRequest(field="recipe.depth", problem=f"a detector has no {recipe.depth}")
    scenes = open_scenes(Path(task.directory), task.dataset)
    require_detectable(scenes)
    network, origin = load_network(task, len(scenes.categories))
    partition = divide(scenes, task.split, refit=recipe.refit)
    batches = SceneBatches(
        scenes=scenes,
        rule=origin.rule,
        canvas=fitting_canvas(scenes.sizes(partition.other_folds), origin.rule.size),
        how=variation(recipe.augmentation, mirror=recipe.mirror),
        multi_scale=recipe.multi_scale,
        seed=task.seed,
        threads=task.threads,
        kept_bytes=kept_bytes(task),
    )
    if task.checkpoint_path:
        scenes.unreadable.update(checkpoints.unreadable(Path(task.checkpoint_path)))
    else:
        batches.look_at(np.arange(len(scenes.samples)), partition.other_folds)  # no step waits for decoding
    scenes.require_readable()
    partition = readable(partition, scenes.sound())
    for part in _still(network, recipe.depth, origin):
        part.requires_grad_(False)
    vision_task = DetectionTask(task, session, scenes, partition, origin, batches, bfloat16_pays(task.device))
    network.to(task.device)
    if task.checkpoint_path or not (recipe.linear_head and origin.pretrained):
        return Start(vision_task, network, Position())
    return _with_initialised_outputs(vision_task, network)


def _with_initialised_outputs(detection: DetectionTask, network: DetectorNetwork) -> Start:
    """The first candidate is what the pretrained network finds before it has trained at all, if that is soon known."""
    meter, rows = detection.session.meter, detection.partition.other_folds
    size = min(EVALUATION_BATCH, detection.task.batch_size_limit or EVALUATION_BATCH)

    def require_time() -> None:
        if meter.used() > FIRST_SHARE * meter.allowance_seconds:
            raise OutOfTime

    if initialise_class_outputs(network, detection.origin, detection.data, rows, meter, size):
        with suppress(OutOfTime):
            answers = detection.predict(copy.deepcopy(network), detection.partition.first_fold, size, require_time)
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            position = Position(best_loss=detection.validation_loss(answers), candidate_step=0)
            return Start(detection, network, position, Candidate(weights, answers))
    return Start(detection, network, Position())


def _still(network: DetectorNetwork, depth: Depth, origin: Origin) -> tuple[nn.Module, ...]:
    """What does not train."""
    return (*network.parts()[TRAINED_PARTS[depth] :], *(network.kept() if origin.pretrained else ()))
