"""Models that run from the graphs in a bundle, in ONNX Runtime unless told otherwise. No torch.

They answer as `classifier.Classifier` and `detector.Detector` do, within 1e-4.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from services.vision.card import CARD_FILE, DIGESTS_FILE, WEIGHTS_FILE, ModelCard, ModelKind, graph_file
from services.vision.image_detections import ImageDetections
from services.vision.inputs import ClassifierInputs, DetectorInputs, Letterboxed, Views, batches_of, by_shape
from services.vision.sealing import BundleCorrupt, load_card, names_of, verify
from services.vision.suppression import suppressed

FATAL = 4
PIECE = 2  # images of a pass in one thread: more do not fit a core's caches

Floats = NDArray[np.float32]


class Runnable(Protocol):
    """A network in some engine; safe to use from several threads."""

    def run(self, outputs: Sequence[str], pixels: NDArray[np.uint8]) -> list[Floats]:
        """The outputs for [n, h, w, 3]."""
        ...


Engine = Callable[[Path], Runnable]


class Graph:
    """A network in ONNX Runtime on a CPU, whose threads sleep between passes; safe to use from several threads.

    All networks of the process share the memory for what lies between their layers.
    """

    def __init__(self, model: Path | bytes, threads: int) -> None:
        _share_memory()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = FATAL  # every error is raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as fault:  # ONNX Runtime's own errors have no common base
            name = model.name if isinstance(model, Path) else "the graph"
            raise BundleCorrupt(f"{name} cannot be used: {fault}") from fault
        (self._input,) = (each.name for each in self._session.get_inputs())

    def run(self, outputs: Sequence[str], pixels: NDArray[np.uint8] | Floats) -> list[Floats]:
        return [np.asarray(output) for output in self._session.run(outputs, {self._input: pixels})]


@cache
def _share_memory() -> None:
    """Gives ONNX Runtime one arena for all sessions, once; otherwise each keeps what its largest pass took."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


class Resting:
    """A network that can rest, and is opened again when it is next used; safe to use from several threads.

    Its files must stay where they are.
    """

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path, self._engine, self._opening = path, engine, Lock()
        self._network: Runnable | None = engine(path)

    def run(self, outputs: Sequence[str], pixels: NDArray[np.uint8]) -> list[Floats]:
        return (self._network or self._opened()).run(outputs, pixels)

    def rest(self) -> None:
        """Frees its memory, after the passes that are running."""
        self._network = None

    def _opened(self) -> Runnable:
        with self._opening:
            self._network = network = self._network or self._engine(self._path)
            return network


class GraphClassifier(ClassifierInputs):
    """Safe to use from several threads."""

    def __init__(self, card: ModelCard, directory: Path, engine: Engine) -> None:
        super().__init__(card)
        self._graphs = {
            index: Resting(directory / graph_file(index), engine)
            for index, backbone in enumerate(card.backbones)
            if backbone.shares is None
        }
        with safe_open(directory / WEIGHTS_FILE, framework="numpy") as weights:
            self._head: Floats = np.ascontiguousarray(weights.get_tensor("head.weight").T)
            self._bias: Floats = weights.get_tensor("head.bias")
        _require_categories(card, self._bias.size)

    def rest(self) -> None:
        """Frees the memory of its networks until the next prediction, which opens them again."""
        for graph in self._graphs.values():
            graph.rest()

    def predict_prepared(self, images: Sequence[Views]) -> Floats:
        """Probabilities [images, categories], each row summing to 1, of what `prepare` returned."""
        if not images:
            return np.empty((0, len(self.card.categories)), np.float32)
        blocks = [block for index, batch in enumerate(batches_of(images)) for block in self._features(index, batch)]
        logits = (np.concatenate(blocks, axis=1) @ self._head + self._bias) / np.float32(self.card.temperature)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def _features(self, index: int, batch: NDArray[np.uint8]) -> list[Floats]:
        backbone = self.card.backbones[index]
        graph = self._graphs[index if backbone.shares is None else backbone.shares]
        blocks = graph.run(["features", "middle"] if backbone.middle else ["features"], batch)
        if not backbone.normalised:
            return blocks
        return [block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12) for block in blocks]


class GraphDetector(DetectorInputs):
    """Safe to use from several threads."""

    def __init__(self, card: ModelCard, directory: Path, engine: Engine) -> None:
        super().__init__(card)
        self._graph = Resting(directory / graph_file(0), engine)

    def rest(self) -> None:
        """Frees the memory of its network until the next prediction, which opens it again."""
        self._graph.rest()

    def predict_prepared(self, images: Sequence[Letterboxed]) -> list[ImageDetections]:
        """The detections in each image; images of one shape share a pass."""
        found: dict[int, ImageDetections] = {}
        for indices in by_shape(images):
            boxes, scores = self.candidates([images[index] for index in indices])
            for row, index in enumerate(indices):
                found[index] = suppressed(boxes[row], scores[row], images[index].frame, self.card.suppression)
        return [found[index] for index in range(len(images))]

    def candidates(self, images: Sequence[Letterboxed]) -> tuple[Floats, Floats]:
        """Boxes and scores before suppression, for images of one shape."""
        boxes, scores = self._graph.run(["boxes", "scores"], np.stack([image.pixels for image in images]))
        _require_categories(self.card, scores.shape[-1])
        return boxes, scores


def _require_categories(card: ModelCard, count: int) -> None:
    """BundleCorrupt if the network has another number of categories than the card."""
    if count != len(card.categories):
        raise BundleCorrupt(f"{CARD_FILE} has {len(card.categories)} categories and the network {count}")


def has_graphs(directory: Path) -> bool:
    """Whether the bundle has a graph for each of its networks; BundleCorrupt."""
    names = names_of((directory / DIGESTS_FILE).read_bytes())
    backbones = enumerate(load_card(directory).backbones)
    return all(graph_file(index) in names for index, backbone in backbones if backbone.shares is None)


def load(directory: Path, threads: int = 1, *, digest: str = "") -> GraphClassifier | GraphDetector:
    """The model of a bundle that has graphs in ONNX Runtime, its files verified; BundleCorrupt."""
    verify(directory, digest)
    return opened(directory, partial(Graph, threads=threads))


def opened(directory: Path, engine: Engine) -> GraphClassifier | GraphDetector:
    """The model of a verified bundle that has graphs; BundleCorrupt, and what `engine` raises."""
    card = load_card(directory)
    kind = GraphDetector if card.kind is ModelKind.GENERIC_DETECTOR else GraphClassifier
    try:
        return kind(card, directory, engine)
    except (OSError, SafetensorError) as fault:
        raise BundleCorrupt(f"{WEIGHTS_FILE}: {fault}") from fault
