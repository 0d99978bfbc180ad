"""Training throughput of detectors: the engine's loop beside a bare one over the same network, images and sizes.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_detection_training.py [SET [NETWORK [SIDE]]]`.
Both loops run by turns in this process, with one thread. The engine's time runs from its first planned step to the end
of its last: decoded pictures are augmented, weights averaged, results offered and checkpoints written meanwhile. The
bare loop does nothing but steps on inputs that lie ready in memory.
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

import msgspec
import numpy as np
import torch

from bench.support import folder, machine, spread
from services.trainer.engine.detection.task import start
from services.trainer.engine.loop import fit
from services.trainer.engine.loop.task import Batch, BatchRequest
from services.trainer.engine.loop.training import Training
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import TrainTask
from services.trainer.recipe import Recipe
from services.vision.card import ModelKind
from services.vision.decode import inspect
from services.vision.repack import encode_for_pack
from services.vision.snapshot import (
    AnnotationKind,
    Box,
    Entry,
    Manifest,
    Shard,
    SnapshotDigest,
    count_categories,
    pack_into_bytes,
    write_index,
)

ROUNDS = 3
EPOCHS = 5  # so that the first offer weighs little more than in a training
BATCH = 8
READY_BATCHES = 6  # of the bare loop, in turn
IMAGES = 96  # of the set, at most: what is measured is pace


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def pack(coco: Path, out: Path, limit: int = 1_000_000) -> Path:
    """A COCO detection file and its first images as a snapshot of one shard."""
    data = msgspec.json.decode(coco.read_bytes(), type=_Coco)
    position = {category.id: index for index, category in enumerate(data.categories)}
    items: list[tuple[Entry, bytes, str]] = []
    for image in sorted(data.images, key=lambda image: image.id)[:limit]:
        raw = (coco.parent / image.file_name).read_bytes()
        ready = encode_for_pack(raw, inspect(raw))
        boxes = [
            Box(*found.bbox, position[found.category_id]) for found in data.annotations if found.image_id == image.id
        ]
        entry = Entry(
            image_id=image.id, file_name=image.file_name, width=ready.width, height=ready.height, boxes=tuple(boxes)
        )
        items.append((entry, ready.data, ready.extension))
    tar, index = pack_into_bytes(items)
    categories = count_categories([(category.id, category.name) for category in data.categories], [index])
    digest = SnapshotDigest(AnnotationKind.OBJECT_DETECTION, categories)
    digest.add(index.records)
    shard = Shard(key="0.tar", index_key="0.json", sha256=index.sha256, size_bytes=len(tar), record_count=len(items))
    manifest = Manifest(
        kind=AnnotationKind.OBJECT_DETECTION,
        categories=categories,
        shards=(shard,),
        image_count=len(items),
        digest=digest.hexdigest(),
    )
    out.mkdir(parents=True)
    (out / "0.tar").write_bytes(tar)
    (out / "0.json").write_bytes(write_index(index))
    (out / "manifest.json").write_bytes(manifest.encode())
    return out


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
    """Images per second of nothing but steps: same network, same precision, same optimizer, inputs ready."""
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
        snapshot = pack(folder("SIGHTLINE_TEST_DATA") / name / "train.json", root / "snapshot", IMAGES)
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
