"""A bundle as one ONNX model: its graphs, then a classifier's head or a detector's suppression. No torch.

Inputs are images as `inputs.framed` makes them, uint8 [n, h, w, 3], RGB. A classifier's output is `probabilities`
[n, categories]. A detector takes one image, the size that it has inside the input, and its own size, both as width and
height; its outputs, by falling score, are `boxes` [m, 4] in pixels of the image (left, top, right, bottom), `scores`
[m] and `labels` [m], the boxes clipped to the image.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open

from services.vision.card import WEIGHTS_FILE, CardBackbone, InputRule, ModelCard, ModelKind, graph_file
from services.vision.exports.merging import Added, add, parsed
from services.vision.exports.onnx_suppression import suppression_graph

INSIDE_BYTES = 1 << 30  # of weights that the file holds itself; a file of ONNX has 2 GiB at most


class Input(NamedTuple):
    """An image as the model takes it."""

    name: str
    rule: InputRule


def inputs_of(card: ModelCard) -> list[Input]:
    """An image for each distinct rule among the networks."""
    rules = list(dict.fromkeys(backbone.rule for backbone in card.backbones))
    if len(rules) == 1:
        return [Input("image", rules[0])]
    return [Input(f"image_{number}", rule) for number, rule in enumerate(rules)]


def build(directory: Path, card: ModelCard) -> onnx.ModelProto:
    """The model of a bundle that has graphs; large weights stay in its file of weights, beside which it must be."""
    inside = (directory / WEIGHTS_FILE).stat().st_size < INSIDE_BYTES
    graphs = {
        index: onnx.load(directory / graph_file(index), load_external_data=inside)
        for index, backbone in enumerate(card.backbones)
        if backbone.shares is None
    }
    first = next(iter(graphs.values()))
    whole = onnx.GraphProto(name="sightline")
    if card.kind is ModelKind.GENERIC_DETECTOR:
        _detector(whole, first.graph, card)
    else:
        _classifier(whole, {index: graph.graph for index, graph in graphs.items()}, card, directory)
    model = helper.make_model(whole, opset_imports=list(first.opset_import), ir_version=first.ir_version)
    model.producer_name = "sightline"
    return model


def _classifier(whole: onnx.GraphProto, graphs: dict[int, onnx.GraphProto], card: ModelCard, directory: Path) -> None:
    inputs = inputs_of(card)
    whole.input.extend(
        helper.make_tensor_value_info(one.name, TensorProto.UINT8, ["n", one.rule.size, one.rule.size, 3])
        for one in inputs
    )
    named = {one.rule: one.name for one in inputs}
    blocks: list[str] = []
    for index, backbone in enumerate(card.backbones):
        network, outputs = index if backbone.shares is None else backbone.shares, _outputs(backbone, index)
        prefixes = Added(f"view{index}.", f"network{network}.")
        add(whole, graphs[network], prefixes, {"pixels": named[backbone.rule]}, outputs)
        blocks.extend(_normalised(whole, name) if backbone.normalised else name for name in outputs.values())
    with safe_open(directory / WEIGHTS_FILE, framework="numpy") as weights:
        head: dict[str, NDArray[np.float32]] = {
            "head.weight": weights.get_tensor("head.weight"),
            "head.bias": weights.get_tensor("head.bias"),
            "head.temperature": np.array(card.temperature, np.float32),
        }
    whole.initializer.extend(numpy_helper.from_array(value, name) for name, value in head.items())
    whole.node.extend(
        (
            helper.make_node("Concat", blocks, ["features"], axis=1),
            helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], transB=1),
            helper.make_node("Div", ["logits", "head.temperature"], ["calibrated"]),
            helper.make_node("Softmax", ["calibrated"], ["probabilities"], axis=1),
        )
    )
    shape = ["n", len(card.categories)]
    whole.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape))


def _outputs(backbone: CardBackbone, index: int) -> dict[str, str]:
    """The outputs of its graph that the head reads, and their names in the whole."""
    names = ("features", "middle") if backbone.middle else ("features",)
    return {name: f"view{index}.{name}" for name in names}


def _normalised(whole: onnx.GraphProto, block: str) -> str:
    """The name of the block scaled to unit length."""
    unit = parsed(_UNIT)
    add(whole, unit, Added(f"{block}.", "unit."), {"block": block}, {"scaled": f"{block}.scaled"})
    return f"{block}.scaled"


def _detector(whole: onnx.GraphProto, graph: onnx.GraphProto, card: ModelCard) -> None:
    add(whole, graph, Added("network.", "network."), {"pixels": "image"}, {})
    suppression = suppression_graph(card.suppression, len(card.categories))
    candidates = {"all_boxes": "network.boxes", "all_scores": "network.scores"}
    sizes = {name: name for name in ("inner_size", "image_size")}
    outputs = {one.name: one.name for one in suppression.output}
    add(whole, suppression, Added("suppression.", "suppression."), candidates | sizes, outputs)
    whole.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "h", "w", 3]))
    whole.input.extend(one for one in suppression.input if one.name in sizes)
    whole.output.extend(suppression.output)


_UNIT = """unit (float[n, d] block) => (float[n, d] scaled)
<float least = {1e-12}, int64[1] columns = {1}>
{
    length = ReduceL2 (block, columns)
    divisor = Max (length, least)
    scaled = Div (block, divisor)
}"""
