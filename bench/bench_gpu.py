"""The engine on a GPU in under ten minutes: throughput against bare loops, memory, and the tests that need a GPU.

`python bench/bench_gpu.py [NETWORK ...] [--device cuda] [--tiny]` needs neither weights nor image sets: networks start
from random weights, images are drawn. With `--device cpu --tiny` it only tries the script.

Prints for each network the images per second of feature extraction and of fine-tuning, each as a ratio to a bare loop
(goal: 0.95), and the peak memory. Then it takes memory away from a fine-tuning, which must halve its batches and still
deliver, and runs tests/unit/trainer/engine/test_gpu.py.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import msgspec
import numpy as np
import torch
from PIL import Image

from bench import snapshots, support
from bench.throughput import bare_feature_pace, bare_pace, engine_pace, feature_pace
from services.trainer.engine.classification.task import ClassificationTask, start
from services.trainer.engine.loop.task import Loss, Truths
from services.trainer.engine.warm_up import warm_up
from services.trainer.messages import TrainTask
from services.trainer.recipe import Recipe
from services.vision.catalogue import BACKBONES
from services.vision.snapshot import AnnotationKind, Entry

WANTED = ("efficientnet_v2_s", "tf_efficientnetv2_s", "vit_small")  # names begin so
STAND_IN = "efficientnet_b0"
GOAL = 0.95
CATEGORIES = 10
GIB = 1 << 30


class Size(NamedTuple):
    """How much is measured."""

    images: int
    side: int
    batch: int
    epochs: int


USUAL, TINY = Size(2000, 224, 64, 6), Size(40, 32, 4, 3)


def main() -> int:
    """Returns the status of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(BACKBONES)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few small images, only to try the script")
    arguments = parser.parse_args()
    device, size = warm_up(arguments.device), TINY if arguments.tiny else USUAL
    print(f"{device.name}; torch {torch.__version__}; {support.machine()}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = drawn(Path(scratch) / "snapshot", size)
        for number, network in enumerate(chosen(arguments.networks)):
            task = task_of(snapshot, network, size, device.kind, Path(scratch) / str(number))
            torch.set_num_threads(task.threads)
            measure(network, task)
            halve(network, msgspec.structs.replace(task, output_directory=f"{task.output_directory}-halved"))
    return subprocess.call([sys.executable, "-m", "pytest", "-q", "tests/unit/trainer/engine/test_gpu.py"])


def chosen(asked: Sequence[str]) -> list[str]:
    """The networks to measure; SystemExit for an unknown one."""
    if unknown := [name for name in asked if name not in BACKBONES]:
        raise SystemExit(f"{unknown[0]} is not a backbone; the backbones are {', '.join(BACKBONES)}")
    return list(asked) or [name for name in BACKBONES if name.startswith(WANTED)] or [STAND_IN]


def drawn(folder: Path, size: Size) -> Path:
    """A snapshot of noise, coarse enough to be a JPEG of usual size."""
    random = np.random.default_rng(0)
    items: list[tuple[Entry, bytes, str]] = []
    for number in range(size.images):
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        data = encoded(coarse.resize((size.side + 32, size.side + 32)))
        side = size.side + 32
        entry = Entry(
            image_id=number + 1, file_name=f"{number}.jpg", width=side, height=side, labels=(number % CATEGORIES,)
        )
        items.append((entry, data, "jpg"))
    names = [(index + 1, f"category {index}") for index in range(CATEGORIES)]
    return snapshots.write(folder, AnnotationKind.IMAGE_CLASSIFICATION, names, items)


def encoded(image: Image.Image) -> bytes:
    """As a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def task_of(snapshot: Path, network: str, size: Size, device: str, root: Path) -> TrainTask:
    """A fine-tuning of the whole network from random weights."""
    recipe = Recipe(
        name="bench", rung=1, backbones=(network,), pretrained=False, resolution=size.side, batch_size=size.batch,
        max_epochs=size.epochs, learning_rate=1e-4, augmentation=0.2,
    )  # fmt: skip
    return TrainTask(
        trial="bench", dataset="bench", directory=str(snapshot), recipe=recipe, allowance=timedelta(hours=1),
        output_directory=str(root / "out"), cache_directory=str(root / "cache"), threads=os.cpu_count() or 1,
        device=device,
    )  # fmt: skip


def measure(network: str, task: TrainTask) -> None:
    """Prints throughput and memory."""
    report(f"{network}: features", feature_pace(task), bare_feature_pace(task))
    with peak() as used:
        engine = engine_pace(task, start)
    report(f"{network}: fine-tuning, {engine.numerics}", engine.pace, bare_pace(task, start, 30, engine.numerics))
    print(f"{network}: peak memory of the fine-tuning {used[0] / GIB:.2f} GiB", flush=True)


def report(what: str, ours: float, bare: float) -> None:
    """One line."""
    verdict = "reached" if ours / bare >= GOAL else "missed"
    print(f"{what}: {ours:.1f} images/s, bare {bare:.1f}, ratio {ours / bare:.3f}: {verdict}", flush=True)


@contextmanager
def peak() -> Generator[list[int]]:
    """Afterwards the list has the peak of allocated bytes; 0 without a GPU."""
    used = [0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield used
    if torch.cuda.is_available():
        used[0] = torch.cuda.max_memory_allocated()


def halve(network: str, task: TrainTask) -> None:
    """Fine-tunes where a batch does not fit into memory; prints the size that does. SystemExit if it is not halved."""
    limit = without_memory(task.recipe.batch_size) if task.device == "cpu" else little_memory(network, task)
    with limit:
        result = engine_pace(msgspec.structs.replace(task, recipe=once(task.recipe)), start).result
    if not result.batch_size_limit:
        raise SystemExit(f"{network}: the batch was not halved")
    print(f"{network}: short of memory, micro-batches of {result.batch_size_limit} of {task.recipe.batch_size}")


def once(recipe: Recipe) -> Recipe:
    """One epoch."""
    return msgspec.structs.replace(recipe, max_epochs=1, min_epochs=1)


@contextmanager
def little_memory(network: str, task: TrainTask) -> Generator[None]:
    """Half of what the fine-tuning used, for the process."""
    with peak() as used:
        engine_pace(msgspec.structs.replace(task, recipe=once(task.recipe)), start)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    print(f"{network}: the fine-tuning gets {used[0] / 2 / GIB:.2f} GiB")
    torch.cuda.set_per_process_memory_fraction(used[0] / 2 / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def without_memory(batch: int) -> Generator[None]:
    """Where memory cannot be limited: batches of more than half fail as if it were."""
    real = ClassificationTask.loss

    def limited(self: ClassificationTask, network: torch.nn.Module, inputs: torch.Tensor, truths: Truths) -> Loss:
        if len(inputs) > batch // 2:
            raise torch.OutOfMemoryError("injected")
        return real(self, network, inputs, truths)

    with patch.object(ClassificationTask, "loss", limited):
        yield


if __name__ == "__main__":
    sys.exit(main())
