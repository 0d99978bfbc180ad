"""Images of coloured shapes with their COCO files, by a seed: for a classifier one shape each, for a detector some."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

SHAPES = ("square", "disc", "bar")
COLOURS = ("firebrick", "seagreen", "royalblue")
SIDE = 64  # pixels


def write(folder: Path, *, count: int, shapes: int, seed: int) -> Path:
    """Writes `count` images with up to `shapes` shapes each; returns the COCO file."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(count):
        image = Image.new("RGB", (SIDE, SIDE), "white")
        for each in range(1 + number % shapes):
            category = (number + each) % len(SHAPES)
            box = _draw(ImageDraw.Draw(image), category, rng)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number + 1, "category_id": category + 1, "bbox": box}
            )
        name = f"{number:03d}.png"
        image.quantize(8).save(folder / name, optimize=True)
        images.append({"id": number + 1, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(SHAPES)]
    coco = folder / "coco.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return coco


def _draw(draw: ImageDraw.ImageDraw, category: int, rng: random.Random) -> list[int]:
    width = rng.randrange(16, 30)
    height = width // 3 if SHAPES[category] == "bar" else width
    x, y = rng.randrange(SIDE - width), rng.randrange(SIDE - height)
    shape = draw.ellipse if SHAPES[category] == "disc" else draw.rectangle
    shape((x, y, x + width - 1, y + height - 1), fill=COLOURS[category])
    return [x, y, width, height]
