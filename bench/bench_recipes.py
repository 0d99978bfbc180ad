"""What each recipe of the classifiers' ladder reaches on the real image sets, by the number of images per category.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_recipes.py [SET ...] [--images N ...]
[--seeds N]`. Runs the engine alone, without services. Test images are only measured on; they select nothing.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench import support
from bench.engine import tested, trained
from bench.snapshots import pack
from services.trainer.domain import Hyperparameters
from services.trainer.engine.data import open_images
from services.trainer.engine.warm_up import warm_up
from services.trainer.messages import Result
from services.trainer.planner import classifier_recipes
from services.trainer.planner.comparison import paired_gain
from services.trainer.planner.selection import classifier_margin
from services.trainer.predictions import read_predictions
from services.trainer.recipe import Recipe
from services.vision import preprocess
from services.vision.backbones import embed
from services.vision.catalogue import BACKBONES
from services.vision.snapshot import AnnotationKind
from services.vision.weights import WeightsResolver, pretrained_network

SETS = ("hemlock_cherry", "trash", "grocery", "coffee_leaf", "eurosat", "steel_defects", "omniglot_greek")
KIND = AnnotationKind.IMAGE_CLASSIFICATION
SERVED = "served"


class Row(NamedTuple):
    """One recipe, measured on the test images; the log loss is that of selection."""

    recipe: str
    accuracy: float
    calibration_error: float
    log_loss: float
    seconds: float


def main() -> None:
    """Prints a line for each set, number of images, seed and recipe, then the means over all sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--images", type=int, nargs="+", default=[0], help="per category; 0: all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max-rung", type=int, default=1, help="0: no tuning")
    arguments = parser.parse_args()
    data, weights = support.folder("SIGHTLINE_TEST_DATA"), support.folder("SIGHTLINE_WEIGHTS_DIR")
    warm_up()
    print(support.machine())
    means: defaultdict[tuple[int, str], list[Row]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.sets:
            test = pack(data / name / "test.json", Path(scratch) / name / "test", KIND)
            for images in arguments.images:
                for seed in range(arguments.seeds):
                    root = Path(scratch) / name / f"{images}-{seed}"
                    train = pack(data / name / "train.json", root / "train", KIND, keep=few(images, seed))
                    print(f"\n{name}, {images or 'all'} images per category, seed {seed}")
                    for row in climb(train, test, weights, root, seed, arguments.max_rung):
                        means[images, row.recipe].append(row)
                        print(show(row), flush=True)
    print("\nmean over sets and seeds")
    for (images, recipe), rows in means.items():
        mean = Row(recipe, *(statistics.mean(column) for column in zip(*(row[1:] for row in rows), strict=True)))
        print(f"{images or 'all':>3} images: {show(mean)}")


def show(row: Row) -> str:
    """One line."""
    return (
        f"{row.recipe:76} top-1 {row.accuracy:.3f} | ECE {row.calibration_error:.3f}"
        f" | selection's log loss {row.log_loss:.3f} | {row.seconds:6.1f} s"
    )


def few(images: int, seed: int) -> Callable[[dict[int, list[int]]], set[int]]:
    """Chooses that many images of each category at random; 0 chooses all."""

    def keep(labels: dict[int, list[int]]) -> set[int]:
        of_category = defaultdict[int, list[int]](list)
        for image in sorted(labels):
            of_category[labels[image][0]].append(image)
        random = np.random.default_rng(seed)
        drawn = [random.permutation(of_category[label]).tolist() for label in sorted(of_category)]
        return {image for ids in drawn for image in (ids[:images] if images else ids)}

    return keep


def climb(train: Path, test: Path, weights: Path, root: Path, seed: int, max_rung: int) -> Iterator[Row]:
    """Runs the ladder's recipes; the last row repeats the one that would be served."""
    bare = bare_forward_seconds(train, weights)
    count = len(open_images(train, "bench").samples)
    results: list[tuple[Recipe, Result, Row]] = []
    for number, recipe in enumerate(ladder(weights, count)):
        if recipe.rung > max_rung:
            continue
        out = root / str(number)
        result = trained(recipe, train, out, root / "cache", weights, seed)
        results.append((recipe, result, measured(recipe, result, test, out)))
        yield results[-1][2]
    print(f"the first trial took {results[0][2].seconds / bare:.2f} bare forward passes of its network")
    _, best, served = results[0]
    for recipe, later, row in results[1:]:
        old, new = (read_predictions(Path(one.predictions_path).read_bytes()) for one in (best, later))
        gain, error, _ = paired_gain(old, new)
        if gain > classifier_margin(recipe) * error:
            best, served = later, row
    yield served._replace(recipe=SERVED)


def ladder(weights: Path, image_count: int) -> list[Recipe]:
    """The recipes for these weights, in the planner's order."""
    wanted = Hyperparameters()
    found = WeightsResolver(weights, download=False)
    available = tuple(name for name, backbone in BACKBONES.items() if found.available(backbone))
    return [classifier_recipes.first(wanted), *classifier_recipes.pretrained(available, wanted, image_count)]


def measured(recipe: Recipe, result: Result, test: Path, out: Path) -> Row:
    """The trained bundle on the test images."""
    found = tested(result, test, out / "test")
    accuracy, error = found.performance.accuracy_top1, found.performance.calibration_ece
    assert accuracy is not None
    assert error is not None
    return Row(recipe.name, accuracy, error, result.selection_log_loss, result.used.total_seconds())


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


if __name__ == "__main__":
    main()
