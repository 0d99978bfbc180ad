"""How many wrong labels a model's worst mistakes name: 5 % of the labels of real sets are replaced by others.

`python bench/bench_label_errors.py [SET ...] [--share S]`. Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR.
Trains a head on features of mobilenet_v2, and compares its mistakes, made by heads that did not see the image, with the
replaced labels. N is how many were replaced; precision and recall at N are equal.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.engine import trained
from bench.snapshots import pack
from bench.support import folder, machine
from services.trainer.recipe import Recipe
from services.vision.snapshot import AnnotationKind

SETS = ("trash", "grocery", "eurosat", "steel_defects", "coffee_leaf")
HEAD = Recipe(name="head", rung=0, backbones=("mobilenet_v2",), resolution=160)


def flipped(coco: Path, out: Path, share: float, seed: int = 0) -> tuple[Path, set[int]]:
    """A copy of the COCO file beside its images, with so many labels replaced, and the ids of these images."""
    described, random = json.loads(coco.read_bytes()), np.random.default_rng(seed)
    marks, ids = described["annotations"], [category["id"] for category in described["categories"]]
    chosen = random.choice(len(marks), round(share * len(marks)), replace=False)
    for place in chosen.tolist():
        others = [each for each in ids if each != marks[place]["category_id"]]
        marks[place]["category_id"] = int(random.choice(others))
    out.mkdir(parents=True)
    (out / "images").symlink_to(coco.parent / "images")
    (out / "train.json").write_text(json.dumps(described))
    return out / "train.json", {marks[place]["image_id"] for place in chosen.tolist()}


def suspects(coco: Path, work: Path, weights: Path) -> list[int]:
    """The images that a model's worst mistakes name, the worst first."""
    snapshot = pack(coco, work / "snapshot", AnnotationKind.IMAGE_CLASSIFICATION)
    result = trained(HEAD, snapshot, work / "out", work / "cache", weights)
    return [mistake.image_id for mistake in result.insight.mistakes]


def main() -> int:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("sets", nargs="*", default=SETS)
    arguments.add_argument("--share", type=float, default=0.05)
    chosen = arguments.parse_args()
    data, weights = folder("SIGHTLINE_TEST_DATA"), folder("SIGHTLINE_WEIGHTS_DIR")
    print(machine())
    print("| set | images | replaced (N) | found in the first N | in the first 2 N | among all named | named |")
    print("|---|---|---|---|---|---|---|")
    for name in chosen.sets:
        with tempfile.TemporaryDirectory() as scratch:
            coco, wrong = flipped(data / name / "train.json", Path(scratch) / "coco", chosen.share)
            named = suspects(coco, Path(scratch), weights)
            images = len(json.loads(coco.read_bytes())["images"])
        count = len(wrong)
        found = [len(wrong.intersection(named[:most])) for most in (count, 2 * count, len(named))]
        shares = " | ".join(f"{each} ({each / count:.0%})" for each in found)
        print(f"| {name} | {images} | {count} | {shares} | {len(named)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
