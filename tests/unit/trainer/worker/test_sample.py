"""A sample of a snapshot: every category first, few images, and a snapshot that training can open."""

from collections import Counter
from pathlib import Path

import pytest

from services.kit.memory import MemoryBlobs
from services.trainer.engine.data import open_images, require_trainable
from services.trainer.engine.detection.data import open_scenes, require_detectable
from services.trainer.worker.sample import Row, categories_of, choose, read_contents, write_sample
from services.vision.snapshot import Box, Record
from tests.unit.trainer.engine.scenes import write_scenes
from tests.unit.trainer.engine.shapes import write_snapshot


def rows(*labels: int) -> list[Row]:
    return [
        Row(Record(image_id=n, file_name=f"{n}", width=9, height=9, labels=(label,), offset=0, size=1, sha256=""), "0")
        for n, label in enumerate(labels)
    ]


def counts(chosen: list[Row]) -> Counter[int]:
    return Counter(category for row in chosen for category in categories_of(row.record))


def test_each_category_gets_up_to_as_many_images_as_asked_in_the_order_of_the_snapshot() -> None:
    chosen = choose(rows(*[0] * 30, *[1] * 3, *[2] * 9), 5, 100, seed=1)
    assert counts(chosen) == {0: 5, 1: 3, 2: 5}
    assert [row.record.image_id for row in chosen] == sorted(row.record.image_id for row in chosen)


def test_every_category_gets_two_before_any_gets_a_third() -> None:
    assert set(counts(choose(rows(*range(10), *range(10), *range(10)), 5, 22, seed=0)).values()) == {2, 3}


def test_with_too_many_categories_some_are_left_out() -> None:
    chosen = choose(rows(*range(50), *range(50), *range(50)), 5, 20, seed=0)
    assert len(chosen) == 20
    assert set(counts(chosen).values()) == {2}


def test_the_seed_decides() -> None:
    images = rows(*[number % 3 for number in range(60)])
    assert choose(images, 5, 12, seed=3) == choose(images, 5, 12, seed=3)
    assert choose(images, 5, 12, seed=3) != choose(images, 5, 12, seed=4)


def test_a_crowd_does_not_show_its_category() -> None:
    boxes = (Box(0, 0, 5, 5, 0), Box(0, 0, 5, 5, 1, iscrowd=True))
    record = Record(image_id=1, file_name="1", width=9, height=9, boxes=boxes, offset=0, size=1, sha256="")
    assert categories_of(record) == {0}


async def stored(folder: Path) -> MemoryBlobs:
    blobs = MemoryBlobs()
    for name in ("0.tar", "0.json", "manifest.json"):
        await blobs.put_file(f"d/{name}", folder / name)
    return blobs


async def test_a_sample_opens_as_a_snapshot_with_the_same_images(tmp_path: Path) -> None:
    whole = write_snapshot(tmp_path / "whole", per_category=8)
    contents = read_contents(whole)
    chosen = choose(contents.rows, 3, 9, seed=0)
    folder = await write_sample(await stored(whole), contents.manifest, chosen, tmp_path / "sample")
    images, everything = open_images(folder, "datasets/d"), open_images(whole, "datasets/d")
    require_trainable(images)
    assert images.categories == everything.categories
    by_id = {int(id_): index for index, id_ in enumerate(everything.ids)}
    for index, id_ in enumerate(images.ids.tolist()):
        assert images.read(index) == everything.read(by_id[id_])
        assert images.labels[index] == everything.labels[by_id[id_]]


async def test_categories_without_two_images_are_left_out_and_the_others_renumbered(tmp_path: Path) -> None:
    whole = write_snapshot(tmp_path / "whole", per_category=8)
    contents = read_contents(whole)
    chosen = [row for row in contents.rows if row.record.labels != (0,)][:6]
    folder = await write_sample(await stored(whole), contents.manifest, chosen, tmp_path / "sample")
    images = open_images(folder, "datasets/d")
    assert images.categories == ("square", "cross")
    assert set(images.labels.tolist()) == {0, 1}


async def test_a_sample_of_scenes_keeps_their_boxes(tmp_path: Path) -> None:
    whole = write_scenes(tmp_path / "whole")
    contents = read_contents(whole)
    chosen = choose(contents.rows, 8, 8, seed=0)
    folder = await write_sample(await stored(whole), contents.manifest, chosen, tmp_path / "sample")
    scenes = open_scenes(folder, "datasets/d")
    require_detectable(scenes)
    kept = {row.record.image_id: row.record.boxes for row in chosen}
    assert {sample.record.image_id: sample.record.boxes for sample in scenes.samples} == kept


@pytest.mark.parametrize("again", [False, True])
async def test_no_two_samples_share_features(tmp_path: Path, again: bool) -> None:
    whole = write_snapshot(tmp_path / "whole", per_category=4)
    contents = read_contents(whole)
    digests = set[str]()
    for name in ("first", "second"):
        chosen = choose(contents.rows, 2, 6, seed=0 if again else len(digests))
        folder = await write_sample(await stored(whole), contents.manifest, chosen, tmp_path / name)
        digests.add(open_images(folder, "datasets/d").manifest.digest)
    assert len(digests | {contents.manifest.digest}) == 3
