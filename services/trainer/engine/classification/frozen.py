"""Frozen networks, which turn images into features: on a CPU in ONNX Runtime, which takes 0.6 of torch's time."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from services.kit.log import Log
from services.trainer.engine.classification.fuse import fused
from services.trainer.engine.data import Floats
from services.trainer.engine.prefetch import prefetched
from services.trainer.messages import TrainTask
from services.vision import graphs
from services.vision.backbones import Network, embed
from services.vision.graph_models import PIECE, Graph
from services.vision.graph_tracing import GraphUnavailable, is_traced
from services.vision.memory import BatchLimit

_log = Log(__name__)


class Frozen(Protocol):
    """A network that computes features."""

    def features(self, images: Tensor, *, middle: bool) -> Floats:
        """[n, 3, h, w] into [n, width], with `middle` those of the stage before too; NaN for an image of NaN."""
        ...


def frozen(network: Network, task: TrainTask, limit: BatchLimit) -> Frozen:
    """The network as it is now; torch keeps to the limit."""
    if has_graph(network.backbone.name, task):
        try:
            return ByGraph(graphs.opened(network, Path(task.graphs_directory)), task.threads)
        except GraphUnavailable as fault:
            _log.info("features_without_graph", problem=str(fault))
    return ByTorch(fused(network), task.device, limit)


def has_graph(name: str, task: TrainTask) -> bool:
    """Whether the network's features come from a graph."""
    return task.device == "cpu" and bool(task.graphs_directory) and is_traced(name, Path(task.graphs_directory))


class ByTorch:
    """Batches that do not fit into memory are halved from then on."""

    def __init__(self, network: Network, device: str, limit: BatchLimit) -> None:
        self._network, self._device, self._limit = network, device, limit

    def features(self, images: Tensor, *, middle: bool) -> Floats:
        def embedded(piece: Tensor) -> Tensor:
            return embed(self._network, piece.to(self._device), middle=middle).float().cpu()

        return torch.cat(self._limit.pieces(images, embedded)).numpy()


class ByGraph:
    """As many passes at once as there are threads."""

    def __init__(self, graph: Graph, threads: int) -> None:
        self._graph, self._threads = graph, threads

    def features(self, images: Tensor, *, middle: bool) -> Floats:
        outputs = ["features", "middle"] if middle else ["features"]
        blocks = prefetched(lambda piece: self._graph.run(outputs, piece.numpy()), images.split(PIECE), self._threads)
        found = np.concatenate([np.concatenate(block, axis=1) for block in blocks])
        found[images[:, 0, 0, 0].isnan().numpy()] = np.nan  # which an activation of a graph may drop
        return found
