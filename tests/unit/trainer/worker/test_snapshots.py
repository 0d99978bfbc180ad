"""Snapshots as a worker fetches them: checked against the digest in the dataset's record."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.kit.errors import DatasetChanged
from services.kit.memory import MemoryBlobs
from services.trainer.datasets import Snapshot
from services.trainer.engine.data import open_images
from services.trainer.messages import MANIFEST_FILE, local_name
from services.trainer.worker.workspace import Workspace
from services.vision.snapshot import (
    AnnotationKind,
    Category,
    Entry,
    Groups,
    Manifest,
    Shard,
    SnapshotDigest,
    pack_into_bytes,
    read_index,
    read_manifest,
    write_groups,
    write_index,
)

KEY, PACK, INDEX = "datasets/d/uid/snapshot/m.json", "datasets/d/uid/packs/0.tar", "datasets/d/uid/packs/0.json"
SNAPSHOT_KIND = AnnotationKind.IMAGE_CLASSIFICATION


@pytest.fixture
async def blobs() -> MemoryBlobs:
    """A store with a snapshot of two images."""
    stored = MemoryBlobs()
    entries = [Entry(image_id=n, file_name=f"{n}.png", width=9, height=9, labels=(n - 1,)) for n in (1, 2)]
    tar, index = pack_into_bytes((entry, b"image %d" % entry.image_id, "png") for entry in entries)
    categories = tuple(Category(id=n, name=name, image_count=1, annotation_count=1) for n, name in enumerate("ab"))
    digest = SnapshotDigest(SNAPSHOT_KIND, categories)
    digest.add(index.records)
    shard = Shard(key=PACK, index_key=INDEX, sha256=index.sha256, size_bytes=len(tar), record_count=2)
    manifest = Manifest(
        kind=SNAPSHOT_KIND, categories=categories, shards=(shard,), image_count=2, digest=digest.hexdigest()
    )
    for key, data in ((PACK, tar), (INDEX, write_index(index)), (KEY, manifest.encode())):
        await stored.put(key, data)
    return stored


async def snapshot(blobs: MemoryBlobs) -> Snapshot:
    """As the dataset's record names it."""
    digest = read_manifest(await blobs.get(KEY)).digest
    return Snapshot(dataset="datasets/d", digest=digest, manifest_key=KEY, image_count=2)


async def test_an_intact_snapshot_is_fetched_whole_and_only_once(blobs: MemoryBlobs, tmp_path: Path) -> None:
    workspace, wanted = Workspace(tmp_path, blobs), await snapshot(blobs)
    directory = await workspace.snapshot(wanted, packs=False)
    names = {MANIFEST_FILE, local_name(INDEX)}
    assert {path.name for path in directory.iterdir()} == names
    assert await workspace.snapshot(wanted) == directory
    assert {path.name for path in directory.iterdir()} == names | {local_name(PACK)}
    assert (directory / local_name(INDEX)).read_bytes() == await blobs.get(INDEX)
    await blobs.delete(PACK)
    assert await workspace.snapshot(wanted) == directory


async def test_groups_of_near_duplicates_come_with_the_snapshot(blobs: MemoryBlobs, tmp_path: Path) -> None:
    key = "datasets/d/uid/snapshot/groups-1.json"
    await blobs.put(key, write_groups(Groups(groups=((1, 2),))))
    await blobs.put(KEY, replace(read_manifest(await blobs.get(KEY)), groups_key=key).encode())
    directory = await Workspace(tmp_path, blobs).snapshot(await snapshot(blobs), packs=False)
    assert open_images(directory, "datasets/d").groups.tolist() == [0, 0]
    await blobs.put(key, b"{}")
    with pytest.raises(DatasetChanged, match=key):
        await Workspace(tmp_path / "other", blobs).snapshot(await snapshot(blobs))


async def test_a_snapshot_of_an_older_version_has_no_groups(blobs: MemoryBlobs, tmp_path: Path) -> None:
    old = (await blobs.get(KEY)).replace(b',"groups_key":""', b"")
    assert b"groups_key" not in old
    await blobs.put(KEY, old)
    directory = await Workspace(tmp_path, blobs).snapshot(await snapshot(blobs))
    assert open_images(directory, "datasets/d").groups.tolist() == [0, 1]


async def swap_labels(blobs: MemoryBlobs) -> None:
    index = read_index(await blobs.get(INDEX))
    one, two = index.records
    changed = replace(index, records=(replace(one, labels=two.labels), replace(two, labels=one.labels)))
    await blobs.put(INDEX, write_index(changed))


async def rename_category(blobs: MemoryBlobs) -> None:
    manifest = read_manifest(await blobs.get(KEY))
    first, second = manifest.categories
    await blobs.put(KEY, replace(manifest, categories=(replace(first, name="x"), second)).encode())


async def change_image(blobs: MemoryBlobs) -> None:
    await blobs.put(PACK, (await blobs.get(PACK)).replace(b"image 1", b"other 1"))


async def replace_whole(blobs: MemoryBlobs) -> None:
    """An image, its index and the manifest's own digest, consistently."""
    await change_image(blobs)
    index = read_index(await blobs.get(INDEX))
    one, two = index.records
    changed = replace(index, records=(replace(one, sha256=two.sha256), two))
    await blobs.put(INDEX, write_index(changed))
    manifest = read_manifest(await blobs.get(KEY))
    digest = SnapshotDigest(SNAPSHOT_KIND, manifest.categories)
    digest.add(changed.records)
    await blobs.put(KEY, replace(manifest, digest=digest.hexdigest()).encode())


async def truncate(blobs: MemoryBlobs) -> None:
    await blobs.put(KEY, b"{}")


@pytest.mark.parametrize("attack", [swap_labels, rename_category, change_image, replace_whole, truncate])
async def test_a_snapshot_that_was_changed_in_the_store_is_refused_by_name(
    blobs: MemoryBlobs, tmp_path: Path, attack
) -> None:
    wanted, workspace = await snapshot(blobs), Workspace(tmp_path, blobs)
    intact = {key: await blobs.get(key) for key in (PACK, INDEX, KEY)}
    await attack(blobs)
    with pytest.raises(DatasetChanged, match=r"datasets/d: .*datasets/d/uid/.* is not what the dataset's record says"):
        await workspace.snapshot(wanted)
    for key, data in intact.items():
        await blobs.put(key, data)
    assert (await workspace.snapshot(wanted) / local_name(PACK)).read_bytes() == intact[PACK]


async def test_a_snapshot_without_a_digest_in_its_record_is_used_with_a_warning(
    blobs: MemoryBlobs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Workspace(tmp_path, blobs).snapshot(dataclasses.replace(await snapshot(blobs), digest=""))
    assert "snapshot_without_digest" in caplog.text
