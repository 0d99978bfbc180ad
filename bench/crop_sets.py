"""Image sets for classification that nothing was chosen on: what the boxes of the detection sets show.

`python bench/crop_sets.py OUT` writes a set for each detection set of SIGHTLINE_TEST_DATA that has several categories,
with as many images of each. `SIGHTLINE_TEST_DATA=OUT python bench/bench_accuracy.py --all [--engine]` measures them.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bench import every_set, support
from services.vision.decode import MIN_SIDE

MOST = {"train": 30, "test": 50}  # images of a category
LEAST = {"train": 10, "test": 10}  # or the category is left out
MARGIN = 0.1  # of the box's longer side, on each side of it

Crop = tuple[int, int, int, int]  # left, top, right, bottom


def main() -> None:
    """Writes the sets and says what is in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a new folder")
    out = parser.parse_args().out
    data = support.folder("SIGHTLINE_TEST_DATA")
    for name in (name for name, detection in every_set.sets_in(data).items() if detection):
        found = {part: crops_of(data / name / f"{part}.json") for part in MOST}
        shared = [
            label for label in found["train"] if all(len(found[part].get(label, ())) >= LEAST[part] for part in MOST)
        ]
        if len(shared) > 1:
            for part, crops in found.items():
                write(data / name, out / f"{name}_crops", part, {label: crops[label] for label in sorted(shared)})


def crops_of(coco: Path) -> dict[str, list[tuple[str, Crop]]]:
    """The file and the crop of what each category's annotations show, in an order of chance."""
    described = json.loads(coco.read_bytes())
    images = {image["id"]: image for image in described["images"]}
    names = {category["id"]: category["name"] for category in described["categories"]}
    found = defaultdict[str, list[tuple[str, Crop]]](list)
    for one in described["annotations"]:
        image = images[one["image_id"]]
        left, top, right, bottom = crop = around(one["bbox"], (image["width"], image["height"]))
        if min(right - left, bottom - top) >= MIN_SIDE:
            found[names[one["category_id"]]].append((image["file_name"], crop))
    for crops in found.values():
        random.Random(0).shuffle(crops)
    return dict(found)


def write(folder: Path, out: Path, part: str, crops: dict[str, list[tuple[str, Crop]]]) -> None:
    """Writes the crops of one part of a set, and its COCO file."""
    (out / part).mkdir(parents=True)
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for label, (name, own) in enumerate(crops.items(), start=1):
        coco["categories"].append({"id": label, "name": name})
        for file, crop in own[: MOST[part]]:
            number = len(coco["images"]) + 1
            with Image.open(folder / file) as image:
                shown = image.convert("RGB").crop(crop)
            shown.save(out / part / f"{number:04}.png")
            sides = {"width": shown.width, "height": shown.height}
            coco["images"].append({"id": number, "file_name": f"{part}/{number:04}.png"} | sides)
            coco["annotations"].append({"id": number, "image_id": number, "category_id": label})
    (out / f"{part}.json").write_text(json.dumps(coco))
    print(f"{out.name}: {len(coco['images'])} images for {part}, of {', '.join(crops)}")


def around(box: Sequence[float], size: tuple[int, int]) -> Crop:
    """The box with its margin, within the image."""
    left, top, width, height = box
    margin = MARGIN * max(width, height)
    right, bottom = min(size[0], left + width + margin), min(size[1], top + height + margin)
    return int(max(0, left - margin)), int(max(0, top - margin)), int(right), int(bottom)


if __name__ == "__main__":
    main()
