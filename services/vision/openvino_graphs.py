"""Networks that OpenVINO runs on a CPU, from the graphs in a bundle. Needs the package `openvino`."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16: twice as fast, with three significant digits."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoGraph:
    """A network; safe to use from several threads, `passes` of which run at once with `threads` each."""

    def __init__(self, path: Path, *, passes: int, threads: int, bfloat16: bool) -> None:
        """RuntimeError if OpenVINO cannot run it."""
        settings = {
            "NUM_STREAMS": passes,
            "INFERENCE_NUM_THREADS": passes * threads,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        self._compiled: Any = openvino.Core().compile_model(path, "CPU", settings)
        self._own = threading.local()

    def run(self, outputs: Sequence[str], pixels: NDArray[np.uint8]) -> list[Floats]:
        """The outputs for [n, h, w, 3]."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        results = self._own.request.infer({"pixels": pixels}, share_inputs=True)
        return [np.array(results[output], np.float32) for output in outputs]  # the request uses its memory again
