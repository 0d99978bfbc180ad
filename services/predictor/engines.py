"""What runs a model: ONNX Runtime on a CPU, torch on a GPU and for bundles without graphs."""

from pathlib import Path
from typing import Literal

from services.predictor.domain import ModelRunner
from services.vision import graph_models
from services.vision.sealing import BundleCorrupt


def load(directory: Path, device: Literal["cpu", "cuda"], threads: int, *, digest: str) -> ModelRunner:
    """The model of a bundle, its files verified; ValueError."""
    if device == "cpu" and graph_models.has_graphs(directory):
        return graph_models.load(directory, threads, digest=digest)
    return _on_torch(directory, device, threads, digest)


def _on_torch(directory: Path, device: Literal["cpu", "cuda"], threads: int, digest: str) -> ModelRunner:
    try:
        import torch  # noqa: PLC0415 - takes seconds and 200 MB, and images for CPUs are without it

        from services.vision import bundle  # noqa: PLC0415 - imports torch itself
    except ModuleNotFoundError:
        problem = "its network has no graph, and this replica has no torch: run the image sightline-predictor-torch"
        raise BundleCorrupt(problem) from None
    torch.set_num_threads(threads)
    return bundle.load(directory, device, digest=digest)
