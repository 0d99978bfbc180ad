"""The predictor on a GPU against its own network in process, in under eight minutes, and the tests that need a GPU.

`python bench/bench_serving_gpu.py [--network NAME] [--seconds N] [--device cuda] [--tiny]`. Random weights, a JPEG of
640 x 480. The limit is what one process reaches that decodes in a thread for each core while the GPU works on the batch
before; goal: 0.9 of it at 32 and 256 callers. With `--device cpu --tiny` it only tries the script.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench import support
from bench.bench_serving import load
from bench.predictor_process import classifier, first_answer, photo, running, store
from services.trainer.engine.warm_up import warm_up
from services.vision import bundle
from services.vision.classifier import Classifier

MODEL = "models/graphs"
CALLERS = (1, 32, 256)
BATCH = 64
GIB = 1 << 30


def main() -> int:
    """Prints a line for each number of callers; returns the status of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="efficientnet_v2_s")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small network for a short time, only to try the script")
    given = parser.parse_args()
    if given.tiny:
        given.network, given.seconds, given.rounds = "mobilenet_v2", 1.0, 1
    device, cores = warm_up(given.device), os.cpu_count() or 1
    print(f"{given.network}; {device.name}; torch {torch.__version__}; {support.machine()}", flush=True)
    image = photo()
    settings: dict[str, Any] = {"SIGHTLINE_DEVICE": given.device, "SIGHTLINE_DECODE_THREADS": str(cores)}
    settings |= {"SIGHTLINE_MAX_BATCH": str(BATCH), "SIGHTLINE_MAX_REQUESTS": "512", "SIGHTLINE_MAX_CALLS": "1024"}
    with tempfile.TemporaryDirectory() as scratch:
        directory = store(Path(scratch) / "store", MODEL, classifier(given.network, 224, fit="crop"), graphs=None)
        model = bundle.load(directory, given.device, digest="")
        assert isinstance(model, Classifier)
        with running(Path(scratch) / "store", **settings) as predictor:
            first_answer(predictor, MODEL, image)
            for callers in CALLERS:
                asyncio.run(load(predictor, callers, image, 1))
                ratios: list[float] = []
                for _ in range(given.rounds):
                    most = limit(model, image, cores, min(callers, BATCH), given.seconds)
                    served = asyncio.run(load(predictor, callers, image, given.seconds))
                    ratios.append(served.pace / most)
                    print(
                        f"{callers:3} callers: {served.pace:.0f}/s of {most:.0f}/s, p99 {served.p99_ms:.0f} ms",
                        flush=True,
                    )
                print(f"{callers:3} callers: {statistics.median(ratios):.2f} of the limit", flush=True)
            if given.device == "cuda":
                free, total = torch.cuda.mem_get_info()
                print(f"memory of the GPU in use, both processes: {(total - free) / GIB:.2f} GiB", flush=True)
    return subprocess.call([sys.executable, "-m", "pytest", "-q", "tests/unit/trainer/engine/test_gpu.py"])


def limit(model: Classifier, image: bytes, threads: int, batch: int, seconds: float) -> float:
    """Images per second of decoding and passes that overlap, in this process."""
    done, start = 0, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(model.prepare, image) for _ in range(batch)]
        while time.perf_counter() < start + seconds:
            ready, waiting = waiting, [pool.submit(model.prepare, image) for _ in range(batch)]
            model.predict_prepared([one.result() for one in ready])
            done += batch
    return done / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
