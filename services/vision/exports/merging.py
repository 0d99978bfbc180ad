"""Puts ONNX graphs together: copies one's nodes into another under new names."""

from collections.abc import Mapping
from typing import NamedTuple

import onnx
from onnx import AttributeProto, NodeProto, parser


class Added(NamedTuple):
    """A graph within another: what precedes the names of its values and of its tensors."""

    values: str
    tensors: str


def add(
    whole: onnx.GraphProto, part: onnx.GraphProto, added: Added, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> None:
    """Copies a graph's nodes, with its inputs and outputs renamed as given.

    A graph that is added twice under one name of its tensors shares them.
    """
    tensors = {one.name: added.tensors + one.name for one in part.initializer}
    names = {**tensors, **inputs, **outputs}
    present = {one.name for one in whole.initializer}
    for tensor in part.initializer:
        if tensors[tensor.name] not in present:
            whole.initializer.add().CopyFrom(tensor)
            whole.initializer[-1].name = tensors[tensor.name]
    for node in part.node:
        _rename(whole.node.add(), node, names, added.values)


def parsed(text: str) -> onnx.GraphProto:
    """A graph in ONNX's textual syntax."""
    return parser.parse_graph(text)


def _rename(copy: NodeProto, node: NodeProto, names: Mapping[str, str], prefix: str) -> None:
    def renamed(name: str) -> str:
        return names.get(name, prefix + name) if name else ""  # an empty name is an input that is left out

    copy.CopyFrom(node)
    copy.name = prefix + node.name if node.name else ""
    copy.input[:] = [renamed(name) for name in node.input]
    copy.output[:] = [renamed(name) for name in node.output]
    if any(one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for one in node.attribute):
        raise ValueError(f"{node.op_type} {node.name} has a graph within it, whose names would have to change too")
