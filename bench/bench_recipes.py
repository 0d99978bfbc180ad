"""What each recipe of the ladder reaches on the real image sets, and its cost against a bare forward pass.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_recipes.py [SET ...]`. Test images are only
measured on; they select nothing.
"""

import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch

from bench.snapshots import pack
from services.trainer.engine.data import open_images
from services.trainer.engine.run import run
from services.trainer.engine.warm_up import warm_up
from services.trainer.messages import EvaluateTask, EvaluationResult, Result, TrainTask
from services.trainer.recipe import Recipe
from services.vision import preprocess
from services.vision.backbones import embed
from services.vision.snapshot import AnnotationKind
from services.vision.weights import WeightsResolver, pretrained_network

SETS = ("hemlock_cherry", "trash", "grocery")
ALLOWANCE = timedelta(seconds=180.0)
ONE = ("mobilenet_v2",)
TWO = (*ONE, "mobilenet_v2_keras")
THREE = (*TWO, "squeezenet1_1")
LADDER = (
    *(Recipe(name=f"{ONE[0]} at {side}", rung=0, backbones=ONE, resolution=side) for side in (224, 256, 288, 320)),
    Recipe(name="two at 320, and mirrored", rung=0, backbones=TWO, resolution=320, views=2),
    Recipe(name="three at 320, and mirrored", rung=0, backbones=THREE, resolution=320, views=2),
)


def bare_forward_seconds(snapshot: Path, weights: Path) -> float:
    """Seconds of one forward pass of mobilenet_v2 over the decoded images, in batches of 16, and of nothing else."""
    images = open_images(snapshot, "bench")
    network, _ = pretrained_network("mobilenet_v2", 2, WeightsResolver(weights, download=False))
    rule = network.backbone.rule
    inputs: list[torch.Tensor] = []
    for index in range(len(images.samples)):
        pixels = images.pixels(index, rule.at_least)
        assert pixels is not None
        inputs.append(preprocess.apply(pixels, rule))
    batches = torch.stack(inputs).contiguous(memory_format=torch.channels_last).split(16)
    started = time.perf_counter()
    for batch in batches:
        embed(network, batch)
    return time.perf_counter() - started


def climb(name: str, data: Path, weights: Path, root: Path) -> None:
    """Runs every recipe on one set, and prints a line for each."""
    kind = AnnotationKind.IMAGE_CLASSIFICATION
    train, test = (pack(data / name / f"{part}.json", root / name / part, kind) for part in ("train", "test"))
    cache = root / name / "cache"
    bare = bare_forward_seconds(train, weights)
    for number, recipe in enumerate(LADDER):
        out = root / name / str(number)
        task = TrainTask(
            trial=recipe.name,
            dataset=name,
            directory=str(train),
            recipe=recipe,
            allowance=ALLOWANCE,
            output_directory=str(out),
            cache_directory=str(cache),
            weights_directory=str(weights),
        )
        result = run(task, lambda _: None)
        assert isinstance(result, Result), result
        measured = run(
            EvaluateTask(
                evaluation="test",
                dataset=name,
                bundle_directory=result.bundle_directory,
                directory=str(test),
                output_directory=str(out),
            ),
            lambda _: None,
        )
        assert isinstance(measured, EvaluationResult), measured
        print(
            f"{name:15} {recipe.name:28} out of fold {result.selection_score:.3f} ±{result.standard_error:.3f}"
            f" log loss {result.selection_log_loss:.3f} | test top-1 {measured.performance.accuracy_top1:.3f}"
            f" | {result.used.total_seconds():5.1f} s = {result.used.total_seconds() / bare:.2f} bare forward passes",
            flush=True,
        )


def main() -> None:
    """Runs the sets of the command line, or all three."""
    data, weights = Path(os.environ["SIGHTLINE_TEST_DATA"]), Path(os.environ["SIGHTLINE_WEIGHTS_DIR"])
    warm_up()
    with tempfile.TemporaryDirectory() as scratch:
        for name in sys.argv[1:] or SETS:
            climb(name, data, weights, Path(scratch))


if __name__ == "__main__":
    main()
