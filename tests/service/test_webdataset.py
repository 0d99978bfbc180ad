"""The shards of a snapshot are WebDatasets: webdataset's own pipeline reads real images and labels from them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import webdataset
from PIL import Image

from services.dataset.settings import DatasetSettings
from services.kit.blobs import from_uri
from services.vision.snapshot import read_manifest
from sightline.v1 import dataset_pb2 as pb
from tests.support.datasets import World, running

wds: Any = webdataset  # without types
IMAGES = 40
KINDS = {"trash": "IMAGE_CLASSIFICATION", "bccd": "OBJECT_DETECTION"}


def part_of(folder: Path) -> dict[str, Any]:
    """The first images of a COCO file, and their annotations."""
    whole = json.loads((folder / "train.json").read_text())
    images = sorted(whole["images"], key=lambda image: image["id"])[:IMAGES]
    kept = {image["id"] for image in images}
    return {**whole, "images": images, "annotations": [a for a in whole["annotations"] if a["image_id"] in kept]}


@pytest.mark.parametrize("name", KINDS)
async def test_webdataset_reads_every_image_and_label(test_data: Path, tmp_path: Path, name: str) -> None:
    coco = part_of(test_data / name)
    files = {one["file_name"]: (test_data / name / one["file_name"]).read_bytes() for one in coco["images"]}
    async with running(World(settings=DatasetSettings(chunk_images=15))) as world:
        dataset = await world.register(json.dumps(coco).encode(), files, kind=KINDS[name])
        assert dataset.state == pb.Dataset.READY, dataset.error
        manifest = read_manifest(await world.blobs.get(from_uri(dataset.snapshot_uri, "sightline")))
        shards: list[str] = []
        for number, shard in enumerate(manifest.shards):
            await world.blobs.get_file(shard.key, tmp_path / f"{number}.tar")
            shards.append(str(tmp_path / f"{number}.tar"))
    assert len(shards) == 3
    by_name = {image["file_name"]: image for image in coco["images"]}
    categories = {one["id"]: one["name"] for one in coco["categories"]}
    samples = list(wds.WebDataset(shards, shardshuffle=False, empty_check=False))
    decoded = list(wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg;png", "json"))
    assert len(samples) == len(decoded) == dataset.stats.image_count == IMAGES
    unchanged = 0
    for sample, (picture, label) in zip(samples, decoded, strict=True):
        image = by_name.pop(label["file_name"])
        assert sample["__key__"] == f"{image['id']:012d}"
        data = sample.get("jpg") or sample["png"]
        unchanged += hashlib.sha256(data).digest() == hashlib.sha256(files[label["file_name"]]).digest()
        assert picture.size == (label["width"], label["height"]) == Image.open(io.BytesIO(data)).size
        marks = [mark for mark in coco["annotations"] if mark["image_id"] == image["id"]]
        if KINDS[name] == "IMAGE_CLASSIFICATION":
            shown = [manifest.categories[one].name for one in label["labels"]]
            assert shown == [categories[mark["category_id"]] for mark in marks]
        else:
            boxes = [(manifest.categories[category].name, *box) for *box, category in (b[:5] for b in label["boxes"])]
            assert boxes == [(categories[mark["category_id"]], *map(float, mark["bbox"])) for mark in marks]
    assert not by_name
    assert unchanged > IMAGES / 2, "most are packed as they are"
