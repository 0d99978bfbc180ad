"""What runs a model: ONNX Runtime or OpenVINO on a CPU, torch on a GPU and for bundles without graphs."""

from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from services.kit.log import Log
from services.predictor.domain import ModelRunner
from services.vision import graph_models
from services.vision.graph_models import Floats, GraphClassifier, GraphDetector
from services.vision.sealing import BundleCorrupt

CpuEngine = Literal["onnxruntime", "openvino"]
GraphModel = GraphClassifier | GraphDetector

TOLERANCE = 0.02  # of scores, and of boxes relative to the input's longer side
_NOISE = (4, 16, 64)  # sides in pixels of the noise that the images for the comparison are enlarged from
_LIKELIEST = 100  # candidates of a detector whose boxes count

_log = Log(__name__)


def load(
    directory: Path,
    device: Literal["cpu", "cuda"],
    threads: int,
    *,
    digest: str,
    cpu_engine: CpuEngine = "onnxruntime",
    passes: int = 1,
) -> ModelRunner:
    """The model of a bundle, its files verified, for `passes` at once with `threads` each; ValueError."""
    if device == "cpu" and graph_models.has_graphs(directory):
        model = graph_models.load(directory, threads, digest=digest)
        return _on_openvino(model, directory, threads, passes) if cpu_engine == "openvino" else model
    return _on_torch(directory, device, threads, digest)


def _on_openvino(model: GraphModel, directory: Path, threads: int, passes: int) -> ModelRunner:
    """The model in OpenVINO, in bfloat16 where the CPU has it; `model` itself where that would answer differently."""
    from services.vision import openvino_graphs  # noqa: PLC0415 - an option that not every replica has

    for bfloat16 in (True, False) if openvino_graphs.has_bfloat16() else (False,):
        engine = partial(openvino_graphs.OpenVinoGraph, passes=passes, threads=threads, bfloat16=bfloat16)
        try:
            candidate = graph_models.opened(directory, engine)
        except RuntimeError as fault:
            _log.warning("engine_refused", engine="openvino", bfloat16=bfloat16, problem=str(fault))
            continue
        if (difference := _difference(model, candidate)) <= TOLERANCE:
            return candidate
        _log.warning("engine_refused", engine="openvino", bfloat16=bfloat16, difference=difference)
    return model


def _difference(one: GraphModel, other: GraphModel) -> float:
    """The largest between their answers about images of noise."""
    images = [_noise(side) for side in _NOISE]
    if isinstance(one, GraphClassifier) and isinstance(other, GraphClassifier):
        prepared = [one.prepare(image) for image in images]
        return _largest(one.predict_prepared(prepared), other.predict_prepared(prepared))
    assert isinstance(one, GraphDetector)
    assert isinstance(other, GraphDetector)
    letterboxed = [one.prepare(image) for image in images]
    (boxes, scores), (others, other_scores) = one.candidates(letterboxed), other.candidates(letterboxed)
    likeliest = np.arange(len(images))[:, None], np.argsort(-scores.max(axis=2), axis=1)[:, :_LIKELIEST]
    shift = _largest(boxes[likeliest], others[likeliest]) / max(letterboxed[0].pixels.shape)
    return max(shift, _largest(scores, other_scores))


def _largest(one: Floats, other: Floats) -> float:
    return float(np.abs(one - other).max())


def _noise(side: int) -> bytes:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def _on_torch(directory: Path, device: Literal["cpu", "cuda"], threads: int, digest: str) -> ModelRunner:
    try:
        import torch  # noqa: PLC0415 - takes seconds and 200 MB, and images for CPUs are without it

        from services.vision import bundle  # noqa: PLC0415 - imports torch itself
    except ModuleNotFoundError:
        problem = "its network has no graph, and this replica has no torch: run the image sightline-predictor-torch"
        raise BundleCorrupt(problem) from None
    torch.set_num_threads(threads)
    return bundle.load(directory, device, digest=digest)
