"""A detector's graph for other runtimes, as ONNX: from the input to the candidates before suppression.

Input `images` [batch, 3, height, width] made by the card's input rule, sides multiples of 32; all three are dynamic.
Outputs `boxes` [batch, candidates, 1, 4], left, top, right, bottom in the input's pixels, and `scores` [batch,
candidates, categories].
"""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.vision.detector import Detector
from services.vision.detector_network import DetectorNetwork
from services.vision.torchvision_detectors import FasterRcnnDetector
from services.vision.transformer_detectors import TransformerDetector

OPSET = 18
TOLERANCE = 1e-2  # pixels: above float32 rounding in the least likely candidate, below the effect of a wrong constant
_TRACED = (2, 3, 96, 128)
_CHECKED = ((1, 3, 160, 64), (3, 3, 64, 96))  # other batch sizes and sides than traced


class ExportFailed(RuntimeError):
    """The graph cannot be written, or does not match the network; says which network and why."""


def export_onnx(detector: Detector, path: Path) -> None:
    """Writes the graph; raises ExportFailed and leaves no file unless it matches the network at other shapes too.

    A tracer turns whatever it does not see computed into a constant, hence the check. No rpc exports a model yet.
    """
    name = detector.card.backbones[0].name
    if isinstance(detector.network, TransformerDetector):
        raise ExportFailed(
            f"{name} computes with its input's sides, which a traced graph fixes; export another detector"
        )
    if isinstance(detector.network, FasterRcnnDetector):
        raise ExportFailed(
            f"{name} proposes as many regions as an image needs, which a traced graph cannot; export another detector"
        )
    network = Detector.from_state(detector.card, detector.state()).network
    try:
        _trace(network, path)
        _check(path, network)
    except Exception as fault:  # tracer and runtime each have their own errors
        path.unlink(missing_ok=True)
        raise ExportFailed(f"{name} cannot be exported: {fault}") from fault


class Graph:
    """An exported graph in ONNX Runtime on a CPU, with one thread."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def candidates(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes and scores, as in the module's docstring."""
        boxes, scores = self._session.run(["boxes", "scores"], {"images": images})
        return np.asarray(boxes), np.asarray(scores)


class _Graph(nn.Module):
    """The network, with `candidates` as its forward pass."""

    def __init__(self, network: DetectorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network.candidates(images)
        return found.boxes, found.scores


def _trace(network: DetectorNetwork, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the tracing exporter, and branches in Python
        torch.onnx.export(
            _Graph(network).eval(),
            (torch.zeros(_TRACED),),
            path,
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_axes={
                "images": {0: "batch", 2: "height", 3: "width"},
                "boxes": {0: "batch", 1: "candidates"},
                "scores": {0: "batch", 1: "candidates"},
            },
            opset_version=OPSET,
            dynamo=False,
        )


@torch.inference_mode()
def _check(path: Path, network: DetectorNetwork) -> None:
    graph = Graph(path)
    generator = torch.Generator().manual_seed(0)
    for shape in _CHECKED:
        images = 255 * torch.rand(shape, generator=generator)
        expected = network.candidates(images)
        boxes, scores = graph.candidates(images.numpy())
        same = boxes.shape == expected.boxes.shape and np.allclose(scores, expected.scores, atol=1e-4)
        if not same or not np.allclose(boxes, expected.boxes, rtol=1e-4, atol=TOLERANCE):
            raise ValueError(f"the graph's outputs differ from the network's for input {shape}")
