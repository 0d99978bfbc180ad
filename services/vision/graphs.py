"""Networks as ONNX graphs: those of a bundle, which `graph_models` runs without torch, and one in memory.

Each distinct network of the card has its own graph, `network-{index}.onnx`: the one that `graph_tracing` keeps, over
this model's tensors, which stay in `weights.safetensors`. Input `pixels`, uint8 [n, h, w, 3], RGB. Outputs of a
classifier's network: `features` [n, dim], and of networks that have one, `middle`, those of the stage before. Of a
detector's: `boxes` [n, k, 1 or categories, 4] and `scores` [n, k, categories], before suppression.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from services.vision.backbones import Network
from services.vision.card import WEIGHTS_FILE, InputRule, graph_file
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.graph_models import Graph
from services.vision.graph_tracing import (
    CATEGORIES,
    PREFIX,
    Candidates,
    Features,
    GraphUnavailable,
    Traceable,
    traced,
    unit_of,
)
from services.vision.preprocess import normalise

TOLERANCE = 1e-4  # of scores, and of features relative to the largest
PIXELS = 1e-2  # of boxes: above float32 rounding in the least likely candidate, below the effect of a wrong constant
_CHECKED = ((1, 5, 2), (3, 2, 3))  # other batch sizes and sides than traced; sides in the network's units


def write(directory: Path, model: Classifier | Detector, folder: Path) -> None:
    """Adds the graphs to the bundle, from the traced ones in `folder`; GraphUnavailable, and then it gets none."""
    written: list[Path] = []
    try:
        for index, network, prefix in _networks(model):
            backbone = model.card.backbones[index]
            graph = traced(backbone.name, folder)
            _place(graph.graph, prefix, directory / WEIGHTS_FILE)
            _normalise(graph.graph, backbone.rule)
            if isinstance(model, Detector):
                _count(graph.graph, len(model.card.categories))
            written.append(directory / graph_file(index))
            written[-1].write_bytes(graph.SerializeToString(deterministic=True))
            _check(Graph(written[-1], threads=1), network, backbone.name, backbone.rule)
    except Exception:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def opened(network: Network, folder: Path) -> Graph:
    """A classifier's network with its weights of now, from the traced one in `folder`; GraphUnavailable.

    It takes what the network takes, float32 [n, 3, h, w], and gives the outputs above. Each pass is one thread's.
    """
    graph, state = traced(network.backbone.name, folder), network.state_dict()
    for tensor, name in _own_tensors(graph.graph):
        tensor.CopyFrom(numpy_helper.from_array(state[name].cpu().numpy(), tensor.name))
    found, was_training = Graph(graph.SerializeToString(), threads=1), network.training
    try:
        _check(found, Features(network).eval(), network.backbone.name, network.backbone.rule, of_bytes=False)
    finally:
        network.train(was_training)
    return found


def _networks(model: Classifier | Detector) -> Iterable[tuple[int, Traceable, str]]:
    """Each distinct network: its index in the card, the network, and what precedes its tensors' names."""
    if isinstance(model, Detector):
        yield 0, Candidates(model.network), ""
        return
    distinct = iter(enumerate(model.network.networks()))
    for index, backbone in enumerate(model.card.backbones):
        if backbone.shares is None:
            place, network = next(distinct)
            yield index, Features(network), f"trunks.{place}."


def _place(graph: onnx.GraphProto, prefix: str, weights: Path) -> None:
    """Points the graph's tensors to those in a safetensors file."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    for tensor, name in _own_tensors(graph):
        entry = header[prefix + name]
        start, end = entry["data_offsets"]
        tensor.dims.extend(entry["shape"])
        for key, value in (("location", weights.name), ("offset", 8 + length + start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))


def _own_tensors(graph: onnx.GraphProto) -> list[tuple[TensorProto, str]]:
    """The tensors that tracing left without values, and their names in the network."""
    return [
        (tensor, tensor.name.removeprefix(PREFIX))
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]


def _count(graph: onnx.GraphProto, categories: int) -> None:
    """Sets a detector's number of categories in shapes, where it stands alone or with a box and its objectness."""
    counts = {CATEGORIES: categories, CATEGORIES + 5: categories + 5}
    for constant in (attribute for node in graph.node if node.op_type == "Constant" for attribute in node.attribute):
        constant.ints[:] = [counts.get(value, value) for value in constant.ints]


def _normalise(graph: onnx.GraphProto, rule: InputRule) -> None:
    """Lets the graph begin with bytes, and do what `preprocess.normalise` does."""
    std = np.array(rule.std, np.float64)
    constants = {
        "sightline.factor": (rule.scale / std).astype(np.float32),
        "sightline.offset": (-np.array(rule.mean, np.float64) / std).astype(np.float32),
        "sightline.order": np.array([2, 1, 0] if rule.channel_order == "BGR" else [0, 1, 2], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    nodes = (
        helper.make_node("Gather", ["pixels", "sightline.order"], ["sightline.ordered"], axis=3),
        helper.make_node("Cast", ["sightline.ordered"], ["sightline.samples"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sightline.samples", "sightline.factor"], ["sightline.scaled"]),
        helper.make_node("Add", ["sightline.scaled", "sightline.offset"], ["sightline.normal"]),
        helper.make_node("Transpose", ["sightline.normal"], [graph.input[0].name], perm=[0, 3, 1, 2]),
    )
    for at, node in enumerate(nodes):
        graph.node.insert(at, node)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", "h", "w", 3]))


@torch.inference_mode()
def _check(graph: Graph, network: Traceable, name: str, rule: InputRule, *, of_bytes: bool = True) -> None:
    """GraphUnavailable unless the graph matches the network: a tracer fixes whatever it does not see computed."""
    random, device = np.random.default_rng(0), next(network.parameters()).device
    for count, *sides in _CHECKED:
        shape = (count, *(unit_of(name) * side for side in sides))
        pixels = random.integers(0, 256, (*shape, 3), np.uint8)
        images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device), rule)
        answered = graph.run(network.outputs, pixels if of_bytes else images.cpu().numpy())
        outputs = zip(network.outputs, answered, network(images), strict=True)
        for output, found, expected in outputs:
            largest = float(expected.abs().max())
            tolerance = {"boxes": PIXELS, "scores": TOLERANCE}.get(output, 1e-7 + TOLERANCE * largest)
            same = found.shape == tuple(expected.shape)
            if not same or not np.allclose(found, expected.cpu(), rtol=1e-4, atol=tolerance):
                problem = f"the {output} of its graph differ from the network's for images of {shape}"
                raise GraphUnavailable(f"{name}: {problem}")
