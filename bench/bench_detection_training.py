"""Training throughput of detectors: the engine's loop against a bare one over the same network, images and sizes.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_detection_training.py [SET [NETWORK [SIDE]]]`.
Both loops run in turn in this process, with one thread. The engine's time runs from its first planned step to the end
of its last; meanwhile it augments images, averages weights, offers results and writes checkpoints. The bare loop only
steps, on inputs that are already in memory.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from bench.snapshots import pack
from bench.support import folder, machine, spread
from services.trainer.engine.detection.task import start
from services.trainer.engine.loop import fit
from services.trainer.engine.loop.task import Batch, BatchRequest
from services.trainer.engine.loop.training import Training
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import TrainTask
from services.trainer.recipe import Recipe
from services.vision.card import ModelKind
from services.vision.snapshot import AnnotationKind

ROUNDS = 3
EPOCHS = 5  # enough for the first offer to take little more of the time than in a real training
BATCH = 8
READY_BATCHES = 6  # through which the bare loop cycles
IMAGES = 96  # at most of the set, as only throughput is measured


def engine_pace(task: TrainTask) -> float:
    """Images per second from the first planned step to the end of the last."""
    real, times = fit.step, list[tuple[float, float]]()

    def timed(*args: object) -> float:
        began = time.perf_counter()
        loss = real(*args)  # pyright: ignore[reportArgumentType] - passed through
        times.append((began, time.perf_counter()))
        return loss

    with patch.object(fit, "step", timed):
        fit.fine_tune(task, Session(Meter(task.allowance), lambda _: None), start)
    planned = times[fit.PROBES :]
    return len(planned) * BATCH / (planned[-1][1] - planned[0][0])


def bare_pace(task: TrainTask, steps: int) -> float:
    """Images per second of steps alone, with the same network, precision and optimizer, and inputs in memory."""
    session = Session(Meter(task.allowance), lambda _: None)
    training = Training.begin(task, session, start(task, session))
    vision_task, network, optimizer = training.vision_task, training.state.network, training.state.optimizer
    rows = training.partition.other_folds
    requests = [BatchRequest(number, 0, np.roll(rows, -number * BATCH)[:BATCH]) for number in range(READY_BATCHES)]
    ready: Iterator[Batch] = itertools.cycle(list(vision_task.batches(requests)))
    vision_task.start_training(network)
    began = 0.0
    for number in range(-fit.PROBES, steps):
        if number == 0:
            began = time.perf_counter()
        inputs, truths = next(ready)
        optimizer.zero_grad(set_to_none=True)
        vision_task.loss(network, inputs, truths).backward()
        optimizer.step()
    return steps * BATCH / (time.perf_counter() - began)


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
            ours.append(engine_pace(task))
            bare.append(bare_pace(task, EPOCHS * (IMAGES // BATCH)))
            print(f"engine {ours[-1]:.2f} images/s, bare loop {bare[-1]:.2f}", flush=True)
        ratio = statistics.median(ours) / statistics.median(bare)
        print(f"engine {spread(ours)}, bare loop {spread(bare)} images/s; ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
