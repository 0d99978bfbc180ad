"""Small detection snapshots of drawn shapes, for tests of the engine."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from bench import snapshots
from services.trainer.recipe import Depth, Recipe
from services.vision.card import ModelKind
from services.vision.snapshot import AnnotationKind, Box, Entry

KINDS = ("disc", "square")
TINY = "yolox_nano"
SIDE = 96  # pixels of images and inputs


def scene(random: np.random.Generator, labels: tuple[int, ...], size: tuple[int, int]) -> tuple[bytes, tuple[Box, ...]]:
    """A PNG with one bright shape for each label, next to each other on dark noise, and their boxes."""
    width, height = size
    image = Image.fromarray(random.integers(0, 50, (height, width, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    boxes: list[Box] = []
    room = width // max(1, len(labels))
    for place, label in enumerate(labels):
        side = int(random.integers(room // 2, room - 4))
        x = place * room + int(random.integers(1, room - side))
        y = int(random.integers(1, max(2, height - side)))
        side = min(side, height - y - 1)
        shape = (x, y, x + side - 1, y + side - 1)
        if label % 2:
            draw.rectangle(shape, fill=(220, 60, 40))
        else:
            draw.ellipse(shape, fill=(60, 90, 230))
        boxes.append(Box(float(x), float(y), float(side), float(side), label))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), tuple(boxes)


def write_scenes(
    directory: Path,
    count: int = 16,
    names: tuple[str, ...] = KINDS,
    *,
    seed: int = 0,
    empty: int = 2,
    crowd: bool = False,
    broken: int = 0,
    sizes: tuple[tuple[int, int], ...] = ((SIDE, SIDE), (SIDE, 64)),
) -> Path:
    """A snapshot in the folder: images of one and two shapes alternately, then `empty` ones without any.

    With `crowd` the first image's first region is one; the first `broken` images cannot be decoded.
    """
    random = np.random.default_rng(seed)
    items: list[tuple[Entry, bytes, str]] = []
    for number in range(count + empty):
        size = sizes[number % len(sizes)]
        pair = (number % len(names), (number + 1) % len(names))
        labels = () if number >= count else pair if number % 3 == 0 else pair[:1]
        data, boxes = scene(random, labels, size)
        if crowd and number == 0:
            first = boxes[0]
            boxes = (Box(first.x, first.y, first.w, first.h, first.category, iscrowd=True), *boxes[1:])
        entry = Entry(image_id=number + 1, file_name=f"{number + 1}.png", width=size[0], height=size[1], boxes=boxes)
        items.append((entry, data[:100] if number < broken else data, "png"))
    return snapshots.write(directory, AnnotationKind.OBJECT_DETECTION, list(enumerate(names, start=1)), items)


def detector_recipe(**changes: object) -> Recipe:
    """A fine-tuning from random weights, two short epochs."""
    settings: dict[str, object] = {
        "name": "detector",
        "rung": 1,
        "kind": ModelKind.GENERIC_DETECTOR,
        "backbones": (TINY,),
        "pretrained": False,
        "resolution": SIDE,
        "depth": Depth.ALL,
        "max_epochs": 2,
        "min_epochs": 1,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "augmentation": 0.2,
        "average_decay": 0.9,
    }
    return Recipe(**{**settings, **changes})  # pyright: ignore[reportArgumentType] - any of its fields
