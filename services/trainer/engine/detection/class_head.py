"""Initial category outputs: those of the pretrained categories that the training images resemble most.

Random outputs would first have to learn what is not an object, which every pretrained category knows.
"""

import copy
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

import torch
from torch import Tensor
from torchvision.ops import box_iou

from services.trainer.engine.data import Indices
from services.trainer.engine.detection.batches import SceneBatches
from services.trainer.engine.detection.network import Origin
from services.trainer.engine.loop.checkpoint import Candidate, Position
from services.trainer.engine.loop.task import VisionTask
from services.trainer.engine.loop.timing import OutOfTime
from services.trainer.engine.loop.training import EVALUATION_BATCH, Start
from services.trainer.engine.session import Meter
from services.trainer.messages import TrainTask
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.detector_network import DetectorNetwork, Targets
from services.vision.memory import BatchLimit
from services.vision.yolox import Yolox

IMAGES = 64  # to look at, shared among the categories
IMAGES_EACH = 4  # of each category, at least
TIME_SHARE = 0.05  # of the allowance, at most
FIRST_SHARE = 0.5  # of the allowance: after it, the network as initialised is not measured
PASS = 8  # images per forward pass
BEST_PROPOSALS = 10  # per region
LEAST_SCORE = 0.02  # of the best pretrained category, for it to count as similar
ALIKE = 0.5  # share of the best category's score from which another one counts too
MOST_ALIKE = 3


def start_from_pretrained_classes(
    vision_task: VisionTask,
    network: DetectorNetwork,
    origin: Origin,
    batches: SceneBatches,
    task: TrainTask,
    meter: Meter,
) -> Start:
    """The first candidate is the initialised network, if every category is initialised and measured in time."""
    size = min(EVALUATION_BATCH, task.batch_size_limit or EVALUATION_BATCH)

    def require_time() -> None:
        if meter.used() > FIRST_SHARE * meter.allowance_seconds:
            raise OutOfTime

    partition = vision_task.partition
    if initialise_class_outputs(network, origin, batches, partition.other_folds, meter, size):
        with suppress(OutOfTime):
            outputs = vision_task.predict(copy.deepcopy(network), partition.first_fold, size, require_time)
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            position = Position(best_loss=vision_task.validation_loss(outputs), candidate_step=0)
            return Start(vision_task, network, position, Candidate(weights, outputs))
    return Start(vision_task, network)


def initialise_class_outputs(
    network: DetectorNetwork, origin: Origin, batches: SceneBatches, rows: Indices, meter: Meter, size: int = PASS
) -> bool:
    """Gives each category the mean outputs of the pretrained ones that score highest in its regions.

    Looks at some of the rows, at most `size` at a time. A category keeps its random outputs if no pretrained one
    scores in its regions, or if it shares its best one with another category: equal outputs are a worse start. Only
    networks of the YOLOX family have separate outputs per category. Returns whether every category was initialised.
    """
    if not isinstance(network, Yolox):
        return False
    outputs = origin.weights.state["head.cls_preds.0.bias"].shape[0]
    known = build_detector(origin.spec.name, outputs)
    assert isinstance(known, Yolox), "same name, same family"
    load_detector_weights(known, origin.weights.state, keep_head=True)
    known.to(next(network.parameters()).device).eval()
    answers = _answers(known, _plain(batches, rows, min(size, PASS)), meter, network.categories)
    best = answers.max(dim=1)
    initialised = 0
    for category, (score, row) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        if score < LEAST_SCORE or (best.indices == row).sum() > 1:
            continue
        alike = torch.nonzero(answers[category] >= ALIKE * score).squeeze(1)
        _initialise(network, known, category, alike[answers[category, alike].argsort(descending=True)][:MOST_ALIKE])
        initialised += 1
    return initialised == network.categories


@torch.no_grad()
def _initialise(network: Yolox, known: Yolox, category: int, alike: Tensor) -> None:
    for own, others in zip(network.head.cls_preds, known.head.cls_preds, strict=True):
        for name, values in own.named_parameters():
            values[category] = others.get_parameter(name)[alike].mean(dim=0)


@torch.inference_mode()
def _answers(known: Yolox, views: Iterator[tuple[Tensor, list[Targets]]], meter: Meter, categories: int) -> Tensor:
    """[categories, pretrained categories]: mean scores of the proposals that best fit the regions."""
    total, count = torch.zeros(categories, known.categories), torch.zeros(categories, 1)
    ends = meter.used() + TIME_SHARE * meter.allowance_seconds
    limit, device = BatchLimit(EVALUATION_BATCH), next(known.parameters()).device

    def candidates(inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = known.candidates(inputs.to(device, memory_format=torch.channels_last))
        return list(zip(found.boxes.cpu(), found.scores.cpu(), strict=True))

    for inputs, targets in views:
        found = chain(*limit.pieces(inputs, candidates))
        for (boxes, scores), truth in zip(found, targets, strict=True):
            overlaps = box_iou(truth.boxes, boxes.squeeze(1))
            fitting = overlaps.topk(min(BEST_PROPOSALS, overlaps.shape[1])).indices
            total.index_add_(0, truth.labels, scores[fitting].mean(dim=1))
            count.index_add_(0, truth.labels, torch.ones(len(truth.labels), 1))
        if meter.used() > ends:
            break
    return total / count.clamp_min(1)


def _plain(batches: SceneBatches, rows: Indices, size: int) -> Iterator[tuple[Tensor, list[Targets]]]:
    """Inputs and targets of the first images of each category."""
    wanted = max(IMAGES_EACH, IMAGES // len(batches.scenes.categories))
    shown = [0] * len(batches.scenes.categories)
    chosen: list[int] = []
    for row in rows.tolist():
        there = batches.scenes.categories_in(row).tolist()
        if any(shown[category] < wanted for category in there):
            chosen.append(row)
            for category in there:
                shown[category] += 1
    for start in range(0, len(chosen), size):
        views = [batches.plain(row) for row in chosen[start : start + size]]
        yield torch.stack([view for view, _ in views]), [truth for _, truth in views]
