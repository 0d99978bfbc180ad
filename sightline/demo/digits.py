"""A small set of real images: the handwritten digits that ship with scikit-learn, as PNG and COCO files.

1,797 scans of 8 × 8 pixels (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository),
enlarged to a realistic size. They are read from scikit-learn's data file, without importing scikit-learn.
"""

import csv
import gzip
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image, ImageOps

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FILE = "sklearn/datasets/data/digits.csv.gz"
SCAN_SIDE, SCAN_DEPTH = 8, 16  # pixels; grey levels above 0
BORDER = 1  # pixels of white margin around a scan

Truth = TypeVar("Truth")
Scan = tuple[int, Image.Image]  # the digit, and its scan


class DigitsMissing(Exception):
    """scikit-learn is not installed; the message says how to install it."""


@dataclass(frozen=True, slots=True)
class ImageSet(Generic[Truth]):
    """A COCO file with its images, and the ground truth for each image."""

    coco: Path
    truth: dict[Path, Truth]


DigitSet = ImageSet[str]


def write(
    folder: Path,
    *,
    digits: int = 10,
    per_digit: int | None = None,
    side: int = 64,
    test_share: float = 0.2,
    seed: int = 0,
) -> tuple[DigitSet, DigitSet]:
    """Writes a training and a test set into the folder: the first `digits` digits, `per_digit` scans of each.

    The split is stratified and depends only on the seed. Raises DigitsMissing.
    """
    train, test = split(digits, per_digit, test_share, seed)
    return _write_set(folder, "train", train, digits, side), _write_set(folder, "test", test, digits, side)


def split(digits: int, per_digit: int | None, test_share: float, seed: int) -> tuple[list[Scan], list[Scan]]:
    """Training and test scans, in the order of their labels, as `write` divides them."""
    scans: dict[int, list[Scan]] = defaultdict(list)
    for scan in _scans():
        if scan[0] < digits:
            scans[scan[0]].append(scan)
    rng = random.Random(seed)  # noqa: S311 - a split is no secret
    train: list[Scan] = []
    test: list[Scan] = []
    for label in sorted(scans):
        chosen = rng.sample(scans[label], per_digit or len(scans[label]))
        cut = round(test_share * len(chosen))
        test += chosen[:cut]
        train += chosen[cut:]
    return train, test


def bundled(file: str) -> Path:
    """A file that ships with scikit-learn; DigitsMissing if that is not installed."""
    try:
        return Path(str(metadata.distribution("scikit-learn").locate_file(file)))
    except metadata.PackageNotFoundError as error:
        raise DigitsMissing("the images come with scikit-learn: pip install scikit-learn") from error


def categories(digits: int) -> list[dict[str, object]]:
    """The COCO categories of the first digits."""
    return [{"id": label + 1, "name": NAMES[label]} for label in range(digits)]


def _scans() -> list[Scan]:
    """All scans with their labels: dark ink on white paper, with a margin."""
    scans: list[Scan] = []
    with gzip.open(bundled(FILE), "rt") as lines:
        for row in csv.reader(lines):
            *levels, label = (int(float(value)) for value in row)
            grey = Image.frombytes(
                "L", (SCAN_SIDE, SCAN_SIDE), bytes(255 - 255 * level // SCAN_DEPTH for level in levels)
            )
            scans.append((label, ImageOps.expand(grey, BORDER, 255)))
    return scans


def _write_set(folder: Path, name: str, scans: list[Scan], digits: int, side: int) -> DigitSet:
    (folder / name).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, int]] = []
    truth: dict[Path, str] = {}
    for number, (label, scan) in enumerate(scans, 1):
        file = folder / name / f"{number:04}.png"
        scan.resize((side, side), Image.Resampling.BICUBIC).convert("RGB").save(file)
        images.append({"id": number, "file_name": f"{name}/{file.name}", "width": side, "height": side})
        annotations.append({"id": number, "image_id": number, "category_id": label + 1})
        truth[file] = NAMES[label]
    coco = folder / f"{name}.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories(digits)}))
    return ImageSet(coco, truth)
