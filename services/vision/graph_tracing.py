"""Traces networks into ONNX graphs without weights, once for each installation: `graphs` gives them a model's weights.

`python -m services.vision.graph_tracing FOLDER [NETWORK ...]` adds those that are missing; by default, the networks
that CPUs of few cores train first, and with `--all` in place of names, every network that can be traced. Each takes
seconds.
"""

import argparse
import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from services.vision.backbones import Network, build
from services.vision.catalogue import BACKBONES, DETECTORS, RANDOM_START
from services.vision.detector_builder import build_detector
from services.vision.detector_network import DetectorNetwork
from services.vision.torchvision_detectors import FasterRcnnDetector
from services.vision.transformer_detectors import TransformerDetector

OPSET = 20
USUAL = ("efficientnet_lite0", "efficientnet_lite2", "mobilenet_v2", RANDOM_START, "yolox_nano", "yolox_tiny")
PREFIX = "network."  # of the names of tensors that a model's weights replace
CATEGORIES = 1009  # of a traced detector: a prime, which stands for the number of categories wherever it appears
_MAKERS = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxscript")


def unit_of(name: str) -> int:
    """What divides the sides of the network's input."""
    return 28 if "_patch14_" in name else 32


class GraphUnavailable(RuntimeError):
    """The network has no graph, or the graph computes something else; says which network and why."""


class Traceable(nn.Module):
    """A network whose outputs are tensors."""

    outputs: tuple[str, ...]


class Features(Traceable):
    """A classifier's network without its head."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.outputs = ("features", "middle") if network.backbone.middle_dim else ("features",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network.embed_stages(images) if len(self.outputs) > 1 else (self.network.embed(images),)


class Candidates(Traceable):
    """A detector's network up to suppression."""

    outputs = ("boxes", "scores")

    def __init__(self, network: DetectorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network.candidates(images)
        return found.boxes, found.scores


def main() -> None:
    """Traces what is missing; exits with 1 if a network that was asked for by name cannot be traced."""
    parser = argparse.ArgumentParser(description="Traces networks into graphs.")
    parser.add_argument("--all", action="store_true", help="every network that can be traced")
    parser.add_argument("folder", type=Path)
    parser.add_argument("networks", nargs="*", default=USUAL)
    given = parser.parse_args()
    failed = False
    for name in (*BACKBONES, *DETECTORS) if given.all else given.networks:
        try:
            add(name, given.folder)
        except GraphUnavailable as fault:
            failed = not given.all
            sys.stderr.write(f"{fault}\n")
    sys.exit(failed)


def add(name: str, folder: Path) -> None:
    """Traces the network unless its graph is there; GraphUnavailable."""
    if is_traced(name, folder):
        return
    path = _path(name, folder)
    try:
        network = _traceable(name)
        data = _trace(network, unit_of(name)).SerializeToString(deterministic=True)
    except GraphUnavailable:
        raise
    except Exception as fault:  # tracer and optimizer each have their own errors
        raise GraphUnavailable(f"{name} cannot be traced: {fault}") from fault
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


def traced(name: str, folder: Path) -> onnx.ModelProto:
    """The network's graph: input `images`, float32 [n, 3, h, w], and no values for the network's tensors.

    GraphUnavailable if it was not traced by these versions.
    """
    try:
        return onnx.load(_path(name, folder), load_external_data=False)
    except OSError:
        raise GraphUnavailable(f"{name} was not traced; see SIGHTLINE_GRAPHS_DIRECTORY") from None


def is_traced(name: str, folder: Path) -> bool:
    """Whether the folder has the network's graph."""
    return _path(name, folder).exists()


def _path(name: str, folder: Path) -> Path:
    return folder / _makers_digest() / f"{name}.onnx"


@cache
def _makers_digest() -> str:
    """Of all that decides what a graph computes: the libraries' versions, and the networks' code beside this file."""
    digest = hashlib.sha256(" ".join(f"{maker} {version(maker)}" for maker in _MAKERS).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _traceable(name: str) -> Traceable:
    if name in BACKBONES:
        return Features(build(name, 1, seed=0))
    network = build_detector(name, CATEGORIES, seed=0)
    if isinstance(network, TransformerDetector):
        raise GraphUnavailable(f"{name} computes with its input's sides, which a traced graph fixes")
    if isinstance(network, FasterRcnnDetector):
        raise GraphUnavailable(f"{name} proposes as many regions as an image needs, which a traced graph cannot")
    return Candidates(network)


def _trace(network: Traceable, unit: int) -> onnx.ModelProto:
    from onnxscript import ir, optimizer  # noqa: PLC0415 - takes a second, and only tracing needs it

    free = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 3, 3 * unit, 4 * unit),),
            input_names=["images"],
            output_names=list(network.outputs),
            dynamic_shapes=({0: free, 2: free, 3: free},),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # it would fold weights, whose values are another model's next time
            verbose=False,
        )
        assert program is not None
        weights = {value: value.const_value for value in program.model.graph.initializers.values()}
        for value in weights:
            value.const_value = None  # what follows from weights must not be folded, only what follows from shapes
        optimizer.fold_constants(program.model, onnx_shape_inference=False)
        for value, tensor in weights.items():
            value.const_value = tensor
        optimizer.remove_unused_nodes(program.model)
    proto = ir.to_proto(program.model)
    _strip(proto, set(network.state_dict()))
    return proto


def _strip(proto: onnx.ModelProto, tensors: set[str]) -> None:
    """Removes what names files of this machine, fixed sides of outputs, and the values of the network's tensors."""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.ClearField("value_info")
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for output in graph.output:
        for place, side in enumerate(output.type.tensor_type.shape.dim):
            side.dim_param = f"{output.name}_{place}"
    for tensor in graph.initializer:
        if tensor.name in tensors:
            kind, name = tensor.data_type, tensor.name
            tensor.Clear()
            tensor.name, tensor.data_type, tensor.data_location = name, kind, TensorProto.EXTERNAL


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


if __name__ == "__main__":
    main()
