"""Small snapshots of drawn shapes, for tests of the engine."""

import io
from datetime import timedelta
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from bench import snapshots
from services.trainer.messages import TrainTask
from services.trainer.recipe import Recipe
from services.vision.snapshot import AnnotationKind, Entry

SHAPES = ("circle", "square", "cross")
SIDES = ("left", "right")  # of which each mirrored is the other
TINY = "mobilenet_v3_small"


def drawing(shape: str, random: np.random.Generator, side: int = 64) -> bytes:
    """A PNG of one shape, anywhere (a side: in the middle), in any colour, on noise."""
    image = Image.fromarray(random.integers(0, 60, (side, side, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    colour = tuple(int(value) for value in random.integers(120, 256, 3))
    radius = int(random.integers(side // 5, side // 3))
    x, y = (int(value) for value in random.integers(radius, side - radius, 2))
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape == "square":
        draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape in SIDES:
        ends = (90, 270) if shape == "left" else (270, 90)
        draw.pieslice((side // 8, side // 8, side * 7 // 8, side * 7 // 8), *ends, fill=colour)
    else:
        draw.line((x - radius, y - radius, x + radius, y + radius), fill=colour, width=5)
        draw.line((x - radius, y + radius, x + radius, y - radius), fill=colour, width=5)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def write_snapshot(
    directory: Path,
    per_category: int = 12,
    names: tuple[str, ...] = SHAPES,
    *,
    seed: int = 0,
    broken: int = 0,
    kind: AnnotationKind = AnnotationKind.IMAGE_CLASSIFICATION,
) -> Path:
    """A snapshot in the folder, images of the categories in turn; the first `broken` of them cannot be decoded."""
    random = np.random.default_rng(seed)
    items: list[tuple[Entry, bytes, str]] = []
    for number in range(per_category * len(names)):
        label = number % len(names)
        data = drawing(names[label] if names[label] in SHAPES + SIDES else "circle", random)
        if number < broken:
            data = data[:100]
        entry = Entry(image_id=number + 1, file_name=f"{number + 1}.png", width=64, height=64, labels=(label,))
        items.append((entry, data, "png"))
    return snapshots.write(directory, kind, list(enumerate(names, start=1)), items)


def linear_recipe(**changes: object) -> Recipe:
    """A linear head on random features."""
    settings = {"name": "linear", "rung": 0, "backbones": (TINY,), "pretrained": False, **changes}
    return Recipe(**settings)  # pyright: ignore[reportArgumentType] - any of its fields


def tuning_recipe(**changes: object) -> Recipe:
    """A fine-tuning, three short epochs."""
    settings = {"name": "tuned", "rung": 1, "max_epochs": 3, "batch_size": 8, "learning_rate": 1e-3}
    return linear_recipe(**{**settings, **changes})


def task_for(snapshot: Path, recipe: Recipe, **changes: object) -> TrainTask:
    """A task whose folders are next to the snapshot."""
    root = snapshot.parent
    for name in ("out", "cache"):
        (root / name).mkdir(exist_ok=True)
    settings: dict[str, object] = {
        "trial": "models/m/trials/t0",
        "dataset": "datasets/d",
        "directory": str(snapshot),
        "recipe": recipe,
        "allowance": timedelta(seconds=300),
        "output_directory": str(root / "out"),
        "cache_directory": str(root / "cache"),
    }
    return TrainTask(**{**settings, **changes})  # pyright: ignore[reportArgumentType] - any of its fields
