"""Training throughput of detectors: the engine's loop against a bare one over the same network, images and sizes.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_detection_training.py [SET [NETWORK [SIDE]]]`.
Both loops run in turn in this process, with one thread.
"""

import os
import statistics
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch

from bench.snapshots import pack
from bench.support import folder, machine, spread
from bench.throughput import bare_pace, engine_pace
from services.trainer.engine.detection.task import start
from services.trainer.messages import TrainTask
from services.trainer.recipe import Recipe
from services.vision.card import ModelKind
from services.vision.snapshot import AnnotationKind

ROUNDS = 3
EPOCHS = 5  # enough for the first offer to take little more of the time than in a real training
BATCH = 8
IMAGES = 96  # at most of the set, as only throughput is measured


def main() -> None:
    """Prints a line for each round and the ratio of the medians."""
    name, network, side = (*sys.argv[1:], *("bccd", "yolox_nano", "416")[len(sys.argv) - 1 :])
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        coco = folder("SIGHTLINE_TEST_DATA") / name / "train.json"
        snapshot = pack(coco, root / "snapshot", AnnotationKind.OBJECT_DETECTION, IMAGES)
        recipe = Recipe(
            name="bench", rung=1, kind=ModelKind.GENERIC_DETECTOR, backbones=(network,), resolution=int(side),
            batch_size=BATCH, max_epochs=EPOCHS, refit=True, learning_rate=1e-4,
        )  # fmt: skip
        task = TrainTask(
            trial="bench", dataset=name, directory=str(snapshot), recipe=recipe, allowance=timedelta(days=1),
            output_directory=str(root / "out"), cache_directory=str(root / "cache"),
            weights_directory=str(folder("SIGHTLINE_WEIGHTS_DIR")),
        )  # fmt: skip
        print(f"{network} at {side} on {name}, batches of {BATCH}; {machine()}")
        ours, bare = list[float](), list[float]()
        for _ in range(ROUNDS):
            engine = engine_pace(task, start)
            ours.append(engine.pace)
            bare.append(bare_pace(task, start, EPOCHS * (IMAGES // BATCH), engine.numerics))
            print(f"engine {ours[-1]:.2f} images/s, bare loop {bare[-1]:.2f}", flush=True)
        ratio = statistics.median(ours) / statistics.median(bare)
        print(f"engine {spread(ours)}, bare loop {spread(bare)} images/s; ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
