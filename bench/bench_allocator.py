"""What glibc's settings for memory do to training: images per second, page faults and memory, in pairs of processes.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_allocator.py [--pairs N] [NAME=VALUE ...]`:
each pair trains once as glibc is by default and once with these variables, by default those of training children.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench import support
from bench.bench_overhead import IMAGES, fresh, task_of, tuning
from bench.snapshots import pack
from bench.throughput import engine_pace
from services.trainer.engine.classification import task as classification
from services.trainer.engine.detection import task as detection
from services.trainer.engine.warm_up import warm_up
from services.trainer.recipe import Recipe
from services.trainer.worker import child_pool
from services.vision.card import ModelKind
from services.vision.snapshot import AnnotationKind

DETECTOR = Recipe(
    name="bench", rung=1, kind=ModelKind.GENERIC_DETECTOR, backbones=("yolox_nano",), resolution=416,
    batch_size=8, max_epochs=2, refit=True, learning_rate=1e-4,
)  # fmt: skip
TRAINED = {
    "classifier": ("trash", AnnotationKind.IMAGE_CLASSIFICATION, classification.start, tuning("mobilenet_v2")),
    "detector": ("bccd", AnnotationKind.OBJECT_DETECTION, detection.start, DETECTOR),
}


def main() -> None:
    """Prints each pair, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--train", choices=TRAINED)
    parser.add_argument("variables", nargs="*")
    arguments = parser.parse_args()
    if arguments.train:
        print(json.dumps(trained(arguments.train)))
        return
    chosen = dict(one.split("=", 1) for one in arguments.variables) or child_pool.ALLOCATION
    print(f"{chosen}; {support.machine()}")
    for name in TRAINED:
        pairs = [(measured(name, {}), measured(name, chosen)) for _ in range(arguments.pairs)]
        for key in pairs[0][0]:
            before, after = (statistics.median(pair[side][key] for pair in pairs) for side in (0, 1))
            ratio = statistics.median(pair[1][key] / pair[0][key] for pair in pairs)
            print(f"{name}: {key} {before:.1f} by default, {after:.1f} so; median of the pairs' ratios {ratio:.2f}")


def measured(name: str, variables: dict[str, str]) -> dict[str, float]:
    """The figures of one process."""
    command = [sys.executable, __file__, "--train", name]
    done = subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True)
    print(name, variables and "so", done.stdout.strip(), flush=True)
    return json.loads(done.stdout)


def trained(name: str) -> dict[str, float]:
    """Trains in this process."""
    data, kind, start, recipe = TRAINED[name]
    warm_up("cpu")
    with tempfile.TemporaryDirectory() as scratch:
        coco = support.folder("SIGHTLINE_TEST_DATA") / data / "train.json"
        snapshot = pack(coco, Path(scratch) / "snapshot", kind, IMAGES)
        task = fresh(task_of(snapshot, recipe), Path(scratch), name)
        torch.set_num_threads(task.threads)
        before = resource.getrusage(resource.RUSAGE_SELF)
        pace = engine_pace(task, start).pace
        after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "images/s": pace,
        "CPU seconds": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
        "CPU seconds in the kernel": after.ru_stime - before.ru_stime,
        "thousand page faults": (after.ru_minflt - before.ru_minflt) / 1000,
        "peak MiB": after.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
