"""Small objects: a detector's precision by the side of its input, and the side that the ladder begins with.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_small_objects.py [TILES [EPOCHS@SIDE ...]]`.
Each 1280 x 960 image is composed of TILES x TILES training images of bccd, scaled down to fit, so that its cells are
tiny. A third of these images, made of other training images than the rest, is used to measure.
"""

import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import torch
from PIL import Image

from bench.snapshots import pack
from bench.support import folder, machine
from services.trainer.engine.detection.data import open_scenes
from services.trainer.engine.detection.task import start
from services.trainer.engine.loop.fit import fine_tune
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Result, TrainTask
from services.trainer.planner import detector_recipes as recipes
from services.trainer.planner.detector_recipes import SearchPoint
from services.trainer.recipe import Recipe, Split
from services.vision.snapshot import AnnotationKind

WIDTH, HEIGHT = 1280, 960
BACKBONE = "yolox_nano"


def compose(coco: Path, out: Path, tiles: int) -> Path:
    """A COCO file of images that are composed of tiles x tiles images each; those left over are not used."""
    data = msgspec.json.decode(coco.read_bytes())
    width, height = WIDTH // tiles, HEIGHT // tiles
    images, annotations = list[dict[str, object]](), list[dict[str, object]]()
    out.mkdir(parents=True)
    for number in range(len(data["images"]) // tiles**2):
        composed = Image.new("RGB", (WIDTH, HEIGHT))
        for place, image in enumerate(data["images"][number * tiles**2 : (number + 1) * tiles**2]):
            left, top = place % tiles * width, place // tiles * height
            with Image.open(coco.parent / image["file_name"]) as tile:
                composed.paste(tile.convert("RGB").resize((width, height), Image.Resampling.BOX), (left, top))
            across, down = width / image["width"], height / image["height"]
            for found in data["annotations"]:
                if found["image_id"] == image["id"]:
                    x, y, w, h = found["bbox"]
                    box = (left + x * across, top + y * down, w * across, h * down)
                    annotations.append(found | {"image_id": number, "bbox": box})
        composed.save(out / f"{number}.jpg", quality=92)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
    file = out / "train.json"
    file.write_bytes(msgspec.json.encode(data | {"images": images, "annotations": annotations}))
    return file


def train(snapshot: Path, recipe: Recipe, root: Path) -> tuple[Result, float]:
    """Trains with the engine on two thirds of the images; returns the result and its CPU seconds."""
    task = TrainTask(
        trial=recipe.name, dataset=snapshot.name, directory=str(snapshot), recipe=recipe,
        allowance=timedelta(days=1),
        output_directory=str(root / recipe.name), cache_directory=str(root / "cache"), split=Split(folds=3),
        weights_directory=str(folder("SIGHTLINE_WEIGHTS_DIR")),
    )  # fmt: skip
    began = time.process_time()
    result = fine_tune(task, Session(Meter(task.allowance, time.process_time), lambda _: None), start)
    return result, time.process_time() - began


def main() -> None:
    """Prints what the planner chooses, and a line for each side."""
    tiles = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        coco = compose(folder("SIGHTLINE_TEST_DATA") / "bccd" / "train.json", root / "images", tiles)
        snapshot = pack(coco, root / "snapshot", AnnotationKind.OBJECT_DETECTION)
        boxes = open_scenes(snapshot, "bench").statistics()
        chosen = recipes.prior_side(BACKBONE, boxes)
        print(f"{tiles} x {tiles} in one image, smallest median {boxes.small_size:.4f} of the longer side; {machine()}")
        print(f"first side: {chosen} (or {recipes.smaller_sides(BACKBONE, chosen)} if the budget is too small),")
        print(f"next after 640: {recipes.larger_side(640, boxes)}", flush=True)
        for plan in sys.argv[2:] or ("20@416", "20@640", f"20@{chosen}"):
            epochs, side = map(int, plan.split("@"))
            point = SearchPoint(BACKBONE, side, recipes.RATE)
            recipe = msgspec.structs.replace(recipes.long(point, boxes.count), name=plan, max_epochs=epochs)
            result, seconds = train(snapshot, recipe, root)
            performance = result.performance
            tags = {name: tag.average_precision_50 for name, tag in performance.tag_performance.items()}
            print(
                f"{side} pixels, smallest {boxes.small_size * side:.0f}: mAP50 {result.selection_score:.3f}"
                f" ±{result.standard_error:.3f}, mAP75 {performance.mean_average_precision_75:.3f},"
                f" {', '.join(f'{name} {value:.3f}' for name, value in tags.items())};"
                f" {result.steps} steps, {seconds:.0f} CPU-s",
                flush=True,
            )


if __name__ == "__main__":
    main()
