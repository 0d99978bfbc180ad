"""What a detector's input side, rate and length of training reach on the test images of a real image set.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_detector_recipes.py [SET [EPOCHS@SIDE:RATE
...]]`. Trains on all training images with the engine alone, on one thread; nothing is chosen by the test images.
"""

import sys
import tempfile
import time
from pathlib import Path

import msgspec
import torch

from bench.engine import tested, trained
from bench.snapshots import pack
from bench.support import folder, machine
from services.trainer.engine.detection.data import open_scenes
from services.trainer.planner import detector_recipes as recipes
from services.trainer.planner.detector_recipes import SearchPoint
from services.trainer.recipe import Recipe
from services.vision.catalogue import FIRST_DETECTOR
from services.vision.snapshot import AnnotationKind

USUAL = ("20@416:2e-4", "20@416:1e-3", "20@640:2e-4")


def recipe(plan: str) -> Recipe:
    """The recipe that a plan such as 20@416:2e-4 names."""
    epochs, rest = plan.split("@")
    side, rate = rest.split(":")
    long = recipes.refit(recipes.long(SearchPoint(FIRST_DETECTOR, int(side), float(rate)), 1))
    return msgspec.structs.replace(long, name=plan, max_epochs=int(epochs))


def measured(plan: str, train: Path, test: Path, root: Path) -> str:
    """Trains and evaluates; returns a line."""
    began = time.process_time()
    weights = folder("SIGHTLINE_WEIGHTS_DIR")
    result = trained(recipe(plan), train, root / plan, root / "cache", weights)
    seconds = time.process_time() - began
    reached = tested(result, test, root / plan / "test").performance
    return (
        f"{plan}: {result.steps} steps, mAP30 {reached.mean_average_precision_30:.3f},"
        f" mAP50 {reached.mean_average_precision_50:.3f}, mAP75 {reached.mean_average_precision_75:.3f};"
        f" {seconds:.0f} CPU-s"
    )


def main() -> None:
    """Prints what the planner would start with, and a line for each plan."""
    name, *plans = sys.argv[1:] or ["kuih"]
    torch.set_num_threads(1)
    data = folder("SIGHTLINE_TEST_DATA") / name
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        train, test = (
            pack(data / f"{part}.json", root / part, AnnotationKind.OBJECT_DETECTION) for part in ("train", "test")
        )
        scenes = open_scenes(train, "bench")
        boxes = scenes.statistics()
        print(f"{name}: {len(scenes.samples)} images, {boxes.count} boxes; {machine()}")
        side = recipes.prior_side(FIRST_DETECTOR, boxes)
        print(f"the ladder starts at {side} pixels, if the budget pays", flush=True)
        for plan in plans or USUAL:
            (root / plan).mkdir()
            print(measured(plan, train, test, root), flush=True)


if __name__ == "__main__":
    main()
