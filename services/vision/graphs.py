"""Writes a bundle's networks as ONNX graphs, which `graph_models` runs without torch.

Each distinct network of the card has its own graph, `network-{index}.onnx`. The tensors stay in `weights.safetensors`:
a graph holds the offset of each. Tracing takes seconds, so that graphs without offsets are kept in a folder, by the
network's name and the versions of what made them.

Input `images`, uint8 [n, h, w, 3]. Outputs of a classifier's network: the features, [n, dim], and with `middle` those
of the stage before, too. Of a detector's: `boxes` [n, k, 1 or categories, 4] and `scores` [n, k, categories].
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from services.vision import graph_models
from services.vision.backbones import Network
from services.vision.card import WEIGHTS_FILE, InputRule, graph_file
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.detector_network import DetectorNetwork
from services.vision.preprocess import normalise
from services.vision.torchvision_detectors import FasterRcnnDetector
from services.vision.transformer_detectors import TransformerDetector

OPSET = 20
TOLERANCE = 1e-4  # of features, which are about 1, and of scores
PIXELS = 1e-2  # of boxes: above float32 rounding in the least likely candidate, below the effect of a wrong constant
_TRACED = (2, 3, 96, 128)
_CHECKED = ((1, 160, 64), (3, 64, 96))  # other batch sizes and sides than traced
_MAKERS = ("torch", "torchvision", "timm", "onnx", "onnxscript")


class GraphUnavailable(RuntimeError):
    """The network cannot be written as a graph, or its graph computes something else; says which network and why."""


def write(directory: Path, model: Classifier | Detector, kept: Path, *, trace: bool) -> None:
    """Adds the graphs of the model to the folder with its weights; GraphUnavailable, and then there is no graph.

    `kept` is the folder of traced graphs; others may write to it at the same time. Without `trace`, only those in it
    are used.
    """
    written: list[Path] = []
    name = ""
    try:
        for index, network, prefix in _networks(model):
            name, rule = model.card.backbones[index].name, model.card.backbones[index].rule
            outputs = graph_models.outputs_of(model.card, index)
            traced = _traced(name, network, outputs, kept, trace=trace)
            path = directory / graph_file(index)
            written.append(path)
            path.write_bytes(
                _placed(traced, prefix, directory / WEIGHTS_FILE, rule).SerializeToString(deterministic=True)
            )
            _check(path, network, outputs, rule)
    except Exception as fault:  # tracer, optimizer and runtime each have their own errors
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(fault, GraphUnavailable):
            raise
        raise GraphUnavailable(f"{name} cannot be written as a graph: {fault}") from fault


class _Traceable(nn.Module):
    """A network with tensors as outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class _Features(_Traceable):
    """A classifier's network without its head."""

    network: Network

    def __init__(self, network: Network, *, middle: bool) -> None:
        super().__init__(network)
        self.middle = middle

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network.embed_stages(images) if self.middle else (self.network.embed(images),)


class _Candidates(_Traceable):
    """A detector's network up to suppression."""

    network: DetectorNetwork

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network.candidates(images)
        return found.boxes, found.scores


def _networks(model: Classifier | Detector) -> Iterable[tuple[int, _Traceable, str]]:
    """Each distinct network: its index in the card, a copy to trace, and what precedes its tensors' names."""
    if isinstance(model, Detector):
        _require_traceable(model)
        yield 0, _Candidates(Detector.from_state(model.card, model.state()).network), ""
        return
    copy = Classifier.from_state(model.card, model.state()).network
    distinct = iter(enumerate(copy.networks()))
    for index, backbone in enumerate(model.card.backbones):
        if backbone.shares is None:
            place, network = next(distinct)
            yield index, _Features(network, middle=graph_models.reads_middle(model.card, index)), f"trunks.{place}."


def _require_traceable(model: Detector) -> None:
    name = model.card.backbones[0].name
    if isinstance(model.network, TransformerDetector):
        raise GraphUnavailable(f"{name} computes with its input's sides, which a traced graph fixes")
    if isinstance(model.network, FasterRcnnDetector):
        raise GraphUnavailable(f"{name} proposes as many regions as an image needs, which a traced graph cannot")


def _traced(name: str, network: _Traceable, outputs: Sequence[str], kept: Path, *, trace: bool) -> onnx.ModelProto:
    """The graph without tensors' offsets, from the folder if it is there."""
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    makers = [f"{maker} {version(maker)}" for maker in _MAKERS]
    key = hashlib.sha256(json.dumps([OPSET, name, list(outputs), shapes, makers], sort_keys=True).encode())
    path = kept / f"{name}-{key.hexdigest()[:16]}.onnx"
    if path.exists():
        return onnx.load(path, load_external_data=False)
    if not trace:
        raise GraphUnavailable(f"{name} has not been traced yet")
    proto = _trace(network, outputs)
    kept.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(proto.SerializeToString(deterministic=True))
    part.replace(path)
    return proto


def _trace(network: _Traceable, outputs: Sequence[str]) -> onnx.ModelProto:
    from onnxscript import ir, optimizer  # noqa: PLC0415 - takes a second, and only a new network needs it

    free = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (torch.zeros(_TRACED),),
            input_names=["images"],
            output_names=list(outputs),
            dynamic_shapes=({0: free, 2: free, 3: free},),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # it would fold weights, whose values are another model's next time
            verbose=False,
        )
        assert program is not None
        tensors = {f"network.{key}" for key in network.network.state_dict()}
        optimizer.fold_constants(program.model, onnx_shape_inference=False)
        optimizer.remove_unused_nodes(program.model)
    proto = ir.to_proto(program.model)
    _strip(proto, tensors)
    return proto


def _strip(proto: onnx.ModelProto, tensors: set[str]) -> None:
    """Removes what names files of this machine, and the values of the tensors that a bundle has."""
    del proto.metadata_props[:]
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    proto.graph.ClearField("value_info")
    for tensor in proto.graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
        if tensor.name in tensors:
            shape, kind, name = list(tensor.dims), tensor.data_type, tensor.name
            tensor.Clear()
            tensor.name, tensor.data_type, tensor.data_location = name, kind, TensorProto.EXTERNAL
            tensor.dims.extend(shape)


def _placed(traced: onnx.ModelProto, prefix: str, weights: Path, rule: InputRule) -> onnx.ModelProto:
    """The graph over the tensors of a weights file, with normalisation in front."""
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    places = _places(weights)
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        start, end = places[prefix + tensor.name.removeprefix("network.")]
        del tensor.external_data[:]
        for key, value in (("location", weights.name), ("offset", start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))
    _normalising(proto, rule)
    return proto


def _places(weights: Path) -> dict[str, tuple[int, int]]:
    """First and last byte of each tensor in a safetensors file."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    start = 8 + length
    return {
        name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _normalising(proto: onnx.ModelProto, rule: InputRule) -> None:
    """Lets the graph begin with bytes [n, h, w, 3], as `preprocess.normalise` reads them."""
    graph, old = proto.graph, proto.graph.input[0]
    std = np.array(rule.std, np.float64)
    constants = {
        "sightline.factor": (rule.scale / std).astype(np.float32),
        "sightline.offset": (-np.array(rule.mean, np.float64) / std).astype(np.float32),
    }
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    nodes = [helper.make_node("Cast", ["pixels"], ["sightline.samples"], to=TensorProto.FLOAT)]
    samples = "sightline.samples"
    if rule.channel_order == "BGR":
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 1, 0], np.int64), "sightline.order"))
        nodes.append(helper.make_node("Gather", [samples, "sightline.order"], ["sightline.bgr"], axis=3))
        samples = "sightline.bgr"
    nodes += [
        helper.make_node("Mul", [samples, "sightline.factor"], ["sightline.scaled"]),
        helper.make_node("Add", ["sightline.scaled", "sightline.offset"], ["sightline.normal"]),
        helper.make_node("Transpose", ["sightline.normal"], [old.name], perm=[0, 3, 1, 2]),
    ]
    for at, node in enumerate(nodes):
        graph.node.insert(at, node)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", "h", "w", 3]))


@torch.inference_mode()
def _check(path: Path, network: _Traceable, outputs: Sequence[str], rule: InputRule) -> None:
    """GraphUnavailable unless the graph matches the network: a tracer fixes whatever it does not see computed."""
    graph = graph_models.Graph(path, threads=1)
    random = np.random.default_rng(0)
    for shape in _CHECKED:
        images = random.integers(0, 256, (*shape, 3), np.uint8)
        expected = network(normalise(torch.from_numpy(images).permute(0, 3, 1, 2), rule))
        for name, ours, theirs in zip(outputs, graph.run(outputs, images), expected, strict=True):
            tolerance = PIXELS if name == "boxes" else TOLERANCE * max(1.0, float(theirs.abs().max()))
            if ours.shape != tuple(theirs.shape) or not np.allclose(ours, theirs.numpy(), rtol=1e-4, atol=tolerance):
                raise GraphUnavailable(f"the graph's {name} differ from the network's for images of {shape}")


@contextmanager
def _quiet() -> Generator[None]:
    """Without the tracer's remarks, which are for its developers."""
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
