"""What the engine adds to computing: its throughput against bare loops, and where charged time goes.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_overhead.py [SET [NETWORK]] [--rounds N]`.
Runs the engine alone, with as many threads as there are cores: the linear heads that the ladder starts with, and a
fine-tuning of three epochs.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import msgspec
import torch

from bench import support
from bench.snapshots import pack
from bench.throughput import bare_feature_pace, bare_pace, engine_pace, feature_pace
from services.trainer.engine.classification.task import start
from services.trainer.engine.run import run
from services.trainer.engine.warm_up import warm_up
from services.trainer.messages import Message, Progress, Result, TrainTask
from services.trainer.recipe import Framing, Recipe
from services.vision.snapshot import AnnotationKind

COMPUTING = ("features", "fit", "train")
THROUGHPUT_GOAL, COMPUTE_GOAL = 0.90, 0.95
IMAGES = 160  # at most, as only throughput is measured
EPOCHS = 3


class Phases:
    """Hears a task's messages, and how long each phase lasts."""

    def __init__(self) -> None:
        self._phase, self._since = "preparing", time.perf_counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def hear(self, message: Message) -> None:
        """The time since the last report belongs to the phase that it named."""
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._since
        self._since = now
        if isinstance(message, Progress):
            self._phase = message.phase


def main() -> None:
    """Prints the ratios of each round, the time of each phase, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", nargs="?", default="trash")
    parser.add_argument("network", nargs="?", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warm_up("cpu")
    print(f"{arguments.network} on {arguments.set}; {support.machine()}")
    with tempfile.TemporaryDirectory() as scratch:
        coco = support.folder("SIGHTLINE_TEST_DATA") / arguments.set / "train.json"
        snapshot = pack(coco, Path(scratch) / "snapshot", AnnotationKind.IMAGE_CLASSIFICATION, IMAGES)
        base = task_of(snapshot, tuning(arguments.network))
        torch.set_num_threads(base.threads)
        rounds = [ratios(fresh(base, Path(scratch), str(number))) for number in range(arguments.rounds)]
        share = compute_share(base, Path(scratch))
    features, steps = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"features: ratio {features:.3f}; fine-tuning: ratio {steps:.3f}, goal {THROUGHPUT_GOAL}")
    print(f"charged in features, fit and training: {share:.3f} of all, goal {COMPUTE_GOAL}")


def tuning(network: str) -> Recipe:
    """A fine-tuning without a head on frozen features, so that nothing but steps comes before it."""
    return Recipe(
        name="bench", rung=1, backbones=(network,), batch_size=16, max_epochs=EPOCHS, learning_rate=1e-4,
        linear_head=False,
    )  # fmt: skip


def task_of(snapshot: Path, recipe: Recipe) -> TrainTask:
    """A training without limits; `fresh` gives it folders."""
    return TrainTask(
        trial="bench", dataset="bench", directory=str(snapshot), recipe=recipe, allowance=timedelta(days=1),
        output_directory="", cache_directory="", weights_directory=str(support.folder("SIGHTLINE_WEIGHTS_DIR")),
        threads=torch.get_num_threads(),
    )  # fmt: skip


def fresh(task: TrainTask, root: Path, name: str) -> TrainTask:
    """The task with folders of its own, so that no features are cached."""
    folder = root / name
    return msgspec.structs.replace(task, output_directory=str(folder / "out"), cache_directory=str(folder / "cache"))


def ratios(task: TrainTask) -> tuple[float, float]:
    """(features, fine-tuning): the engine's images per second, divided by the bare loop's."""
    features, bare_features = feature_pace(task), bare_feature_pace(task)
    engine = engine_pace(task, start)
    bare_steps = bare_pace(task, start, engine.result.steps, engine.numerics)
    print(f"features {features:.1f} images/s, bare {bare_features:.1f}", end=" | ")
    print(f"fine-tuning {engine.pace:.1f} images/s, bare {bare_steps:.1f}", flush=True)
    return features / bare_features, engine.pace / bare_steps


def compute_share(base: TrainTask, root: Path) -> float:
    """The share of charged time that is spent on features, fits and steps, over the ladder's kinds of trials."""
    head = msgspec.structs.replace(base.recipe, rung=0)
    both = (Framing.STRETCH, Framing.CROP)
    tuned = msgspec.structs.replace(base.recipe, linear_head=True)
    recipes = {"head": head, "combined heads": msgspec.structs.replace(head, framings=both, views=2), "tuned": tuned}
    computing = charged = 0.0
    for name, recipe in recipes.items():
        phases = Phases()
        result = run(msgspec.structs.replace(fresh(base, root, name), recipe=recipe), phases.hear)
        assert isinstance(result, Result), result
        phases.hear(result)
        parts = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in phases.seconds.items())
        print(f"{name}: charged {result.used.total_seconds():.2f} s: {parts}", flush=True)
        computing += sum(phases.seconds[phase] for phase in COMPUTING)
        charged += sum(phases.seconds.values())
    return computing / charged


if __name__ == "__main__":
    main()
