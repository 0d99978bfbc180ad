"""Whether continuing a fine-tuned model beats starting from published weights, on categories that it has not seen.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_base_model.py [SET ...] [--images N]
[--seeds N]`. Fine-tunes mobilenet_v2 on half of a set's categories. Then fits heads for all categories, with few images
each, on its features and on those of the published weights, and measures both on the test images. The engine alone, no
services.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from msgspec.structs import replace

from bench import support
from bench.bench_recipes import KIND, few, measured
from bench.engine import trained
from bench.snapshots import pack
from services.trainer.domain import Hyperparameters
from services.trainer.engine.warm_up import warm_up
from services.trainer.planner import classifier_recipes

SETS = ("eurosat", "omniglot_greek")


def main() -> None:
    """Prints a line for each set and seed, then the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET")
    parser.add_argument("--images", type=int, default=5, help="of each category, to continue with")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    data, weights = support.folder("SIGHTLINE_TEST_DATA"), support.folder("SIGHTLINE_WEIGHTS_DIR")
    warm_up()
    print(support.machine())
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.sets:
            for seed in range(arguments.seeds):
                pairs.append(compared(data / name, Path(scratch) / f"{name}-{seed}", weights, arguments.images, seed))
                print(f"{name}, seed {seed}: {pairs[-1][0]:.3f} from published weights, {pairs[-1][1]:.3f} continued")
    plain, continued = (statistics.mean(column) for column in zip(*pairs, strict=True))
    print(f"mean: {plain:.3f} from published weights, {continued:.3f} continued")


def compared(data: Path, root: Path, weights: Path, images: int, seed: int) -> tuple[float, float]:
    """(top-1 from the published weights, top-1 from the base model)."""
    head = classifier_recipes.first(Hyperparameters())
    ladder = classifier_recipes.pretrained(head.backbones, Hyperparameters(), classifier_recipes.TUNED_FROM)
    tuning = replace(ladder[-1], framings=head.framings)
    half = pack(half_of(data / "train.json", root), root / "half", KIND)
    base = trained(tuning, half, root / "base", root / "base" / "cache", weights, seed)
    train = pack(data / "train.json", root / "few", KIND, keep=few(images, seed))
    test = pack(data / "test.json", root / "test", KIND)
    plain = trained(head, train, root / "plain", root / "plain" / "cache", weights, seed)
    out = root / "continued"
    continued = trained(head, train, out, out / "cache", weights, seed, base.bundle_directory)
    rows = [measured(head, one, test, root / name) for one, name in ((plain, "of-plain"), (continued, "of-continued"))]
    return rows[0].accuracy, rows[1].accuracy


def half_of(coco: Path, out: Path) -> Path:
    """Writes a COCO file with every second category and its images into a new folder; returns its path."""
    data = json.loads(coco.read_bytes())
    kept = {category["id"] for category in data["categories"][::2]}
    data["categories"] = data["categories"][::2]
    data["annotations"] = [one for one in data["annotations"] if one["category_id"] in kept]
    shown = {one["image_id"] for one in data["annotations"]}
    data["images"] = [
        {**image, "file_name": str(coco.parent / image["file_name"])}
        for image in data["images"]
        if image["id"] in shown
    ]
    out.mkdir(parents=True)
    path = out / "half.json"
    path.write_text(json.dumps(data))
    return path


if __name__ == "__main__":
    main()
