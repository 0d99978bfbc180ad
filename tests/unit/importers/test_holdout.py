"""A test part has every category in its share, and shares no near-duplicates with training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.importers.holdout import hold_out
from sightline.importers.package import Package, pack
from sightline.importers.read import read
from tests.unit.importers import exports


def noise(file: Path, seed: int, brightness: int = 0) -> None:
    """A random picture; with the same seed and another brightness, one that looks alike."""
    pixels = np.kron(np.random.default_rng(seed).integers(40, 200, (8, 9)), np.ones((10, 10)))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels + brightness).astype(np.uint8)).save(file)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """40 cats, 20 dogs and 3 cows; every cat is there twice, a little brighter."""
    for number in range(20):
        noise(tmp_path / "cat" / f"{number}.png", number)
        noise(tmp_path / "cat" / f"{number}-brighter.png", number, 9)
        noise(tmp_path / "dog" / f"{number}.png", 100 + number)
    for number in range(3):
        noise(tmp_path / "cow" / f"{number}.png", 200 + number)
    return pack(read(tmp_path))


def paths(package: Package) -> set[str]:
    return {placed.path for placed in package.included}


def test_every_category_is_in_the_test_part_in_its_share_except_rare_ones(package: Package) -> None:
    training, test = hold_out(package, 0.2, 0)
    assert test is not None
    assert Counter(path.split("/")[0] for path in paths(test)) == {"cat": 8, "dog": 4}
    assert paths(training) | paths(test) == paths(package)
    assert not paths(training) & paths(test)


def test_images_that_look_alike_are_on_the_same_side(package: Package) -> None:
    _, test = hold_out(package, 0.2, 0)
    assert test is not None
    cats = {Path(path).stem.removesuffix("-brighter") for path in paths(test) if path.startswith("cat/")}
    assert len(cats) == 4


@pytest.mark.parametrize(("dtype", "scale"), [("u2", 257), ("u2", 16), ("i4", 1000), ("f4", 1 / 255)])
def test_deep_samples_are_told_apart(tmp_path: Path, dtype: str, scale: float) -> None:
    for number in range(60):
        place = tmp_path / ("cat", "dog")[number % 2] / f"{number}.tiff"
        noise(place, number)
        with Image.open(place) as image:
            deep = (np.asarray(image, "f8") * scale).astype(dtype)
        Image.fromarray(deep).save(place)
    _, test = hold_out(pack(read(tmp_path)), 0.2, 0)
    assert test is not None
    assert len(test.included) == 12


def test_the_same_seed_gives_the_same_parts_and_another_seed_others(package: Package) -> None:
    first, same, other = (hold_out(package, 0.2, seed)[1] for seed in (0, 0, 1))
    assert first is not None
    assert same is not None
    assert other is not None
    assert paths(first) == paths(same) != paths(other)


def test_few_images_are_all_for_training(tmp_path: Path) -> None:
    package = pack(read(exports.folder_per_class(tmp_path)))
    assert hold_out(package, 0.2, 0) == (package, None)


@pytest.mark.parametrize(
    ("own", "written"),
    [("{}", "{}"), ("{:03}", "{}"), ("{}", "{}.0"), ("{}", "{}.png"), ("image {}", "{}.png"), ("{}.png", "{}.png")],
)
def test_the_parts_of_a_coco_file_list_their_images_and_annotations_only(
    tmp_path: Path, own: str, written: str
) -> None:
    numbers = range(60)
    images = [{"id": own.format(number), "file_name": f"{number}.png"} for number in numbers]
    marks = [{"id": number, "image_id": written.format(number), "category_id": number % 2 + 1} for number in numbers]
    for number in numbers:
        noise(tmp_path / f"{number}.png", number)
    file = exports.coco_file(tmp_path / "set.json", [], images=images, annotations=marks)
    training, test = hold_out(pack(read(file)), 0.2, 0)
    assert test is not None
    for part in (training, test):
        (uploaded,) = part.annotation_files()
        content = json.loads(uploaded.content or b"")
        assert {image["file_name"] for image in content["images"]} == paths(part)
        assert {f"{mark['id']}.png" for mark in content["annotations"]} == paths(part)
