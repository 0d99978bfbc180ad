"""A model as a program of `torch.export`, with the inputs and outputs of `onnx_model`."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from services.vision.card import InputRule
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.exports.onnx_model import inputs_of
from services.vision.graph_tracing import unit_of
from services.vision.preprocess import normalise
from services.vision.suppression import CONTENDERS


def write(path: Path, model: Classifier | Detector) -> None:
    """Writes the program, which names no file of this machine."""
    program = _detector(model) if isinstance(model, Detector) else _classifier(model)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                    node.meta.pop(key, None)
    torch.export.save(program, path)


class ClassifierProgram(nn.Module):
    """Bytes of images, one batch for each distinct rule, into probabilities."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.network = model.network
        self._temperature = model.card.temperature
        self._rules = [backbone.rule for backbone in model.card.backbones]
        places = {one.rule: place for place, one in enumerate(inputs_of(model.card))}
        self._places = [places[rule] for rule in self._rules]

    def forward(self, *images: Tensor) -> tuple[Tensor]:
        """[n, h, w, 3] each into [n, categories]."""
        views = zip(self._places, self._rules, strict=True)
        logits: Tensor = self.network(*(_normalised(images[place], rule) for place, rule in views))
        return (torch.softmax(logits.float() / self._temperature, dim=1),)


class DetectorProgram(nn.Module):
    """The bytes of an image, its size inside the input, and its own, into its objects; see `suppression`."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.network = model.network
        self._rule, self._suppression = model.rule, model.card.suppression
        self._count = len(model.card.categories)

    def forward(self, image: Tensor, inner_size: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[1, h, w, 3] and two sizes [2] into boxes [m, 4], scores [m] and labels [m]."""
        found = self.network.candidates(_normalised(image, self._rule))
        boxes, scores, labels = self._contenders(found.boxes[0], found.scores[0].float())
        boxes = (boxes / (inner_size / image_size).repeat(2)).clamp_min(0)
        boxes = torch.minimum(boxes, image_size.repeat(2))
        usable = (scores >= self._suppression.least_score) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        kept = _survivors(boxes, labels, usable, self._suppression.iou).nonzero()[:, 0][: self._suppression.most]
        return boxes[kept], scores[kept], labels[kept]

    def _contenders(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidates by falling score; rows of -1 make up for candidates if there are too few."""
        rows = CONTENDERS * self._suppression.most
        scores = torch.cat((scores, scores.new_full((rows, self._count), -1)))
        boxes = torch.cat((boxes, boxes.new_zeros((rows, boxes.shape[1], 4))))
        best = scores.amax(1).topk(rows).indices
        chosen, pairs = scores[best].flatten().topk(rows)
        labels = pairs % self._count
        return boxes[best[pairs // self._count], labels % boxes.shape[1]], chosen, labels


def _survivors(boxes: Tensor, labels: Tensor, usable: Tensor, iou: float) -> Tensor:
    """Which boxes stay, given by falling score: those that no better one that stays overlaps too much.

    Each step decides at least one more box for good, and the last one changes nothing.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    low, high = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    order = torch.arange(len(labels), device=labels.device)
    rivals = (labels[:, None] == labels) & (order[:, None] < order)
    rivals &= shared > iou * (areas[:, None] + areas - shared)

    # A loop of Python would be unrolled, for the boxes of the example alone.
    start = usable, torch.zeros_like(usable)
    stays, _ = torch.ops.higher_order.while_loop(_has_changed, _decided, start, (usable, rivals))
    return stays


def _has_changed(stays: Tensor, before: Tensor, *_given: Tensor) -> Tensor:
    return (stays != before).any()


def _decided(stays: Tensor, _before: Tensor, usable: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor]:
    return usable & ~(rivals & stays[:, None]).any(0), stays.clone()


def _normalised(images: Tensor, rule: InputRule) -> Tensor:
    return normalise(images.permute(0, 3, 1, 2), rule)


def _classifier(model: Classifier) -> ExportedProgram:
    sizes = [one.rule.size for one in inputs_of(model.card)]
    images = tuple(torch.zeros((2, size, size, 3), dtype=torch.uint8) for size in sizes)
    return _exported(ClassifierProgram(model), images, (tuple({0: Dim.DYNAMIC} for _ in images),))


def _detector(model: Detector) -> ExportedProgram:
    unit = unit_of(model.card.backbones[0].name)
    image = torch.zeros((1, 3 * unit, 4 * unit, 3), dtype=torch.uint8)
    sizes = torch.tensor([4.0 * unit, 3.0 * unit]), torch.tensor([640.0, 480.0])
    return _exported(DetectorProgram(model), (image, *sizes), ({1: Dim.DYNAMIC, 2: Dim.DYNAMIC}, None, None))


def _exported(module: nn.Module, example: tuple[Tensor, ...], shapes: tuple[object, ...]) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module.eval(), example, dynamic_shapes=shapes)
