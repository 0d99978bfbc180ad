"""Fetches a snapshot from the store; what differs from the digest in the dataset's record is refused."""

import asyncio
import mmap
from pathlib import Path

from services.kit.blobs import Blobs
from services.kit.errors import DatasetChanged
from services.kit.log import Log
from services.trainer.datasets import Snapshot
from services.trainer.messages import MANIFEST_FILE, local_name
from services.vision.snapshot import (
    Manifest,
    ShardIndex,
    SnapshotDigest,
    read_groups,
    read_index,
    read_manifest,
    read_record,
    write_index,
)

_log = Log(__name__)


class Snapshots:
    """One snapshot and its folder.

    Law: a file appears in the folder once it is complete and checked. The record's digest covers kind, categories,
    annotations and the digests of all images, so that a change of the store alone is noticed.
    """

    def __init__(self, blobs: Blobs, snapshot: Snapshot, directory: Path) -> None:
        self._blobs, self._snapshot, self._directory = blobs, snapshot, directory

    async def fetch(self, *, packs: bool) -> None:
        """Fetches what the folder lacks; the manifest last. BlobNotFound, DatasetChanged."""
        encoded = await self._blobs.get(self._snapshot.manifest_key)
        try:
            manifest = read_manifest(encoded)
            indexes = [await self._index(shard.index_key) for shard in manifest.shards]
            await asyncio.to_thread(self._check, manifest, indexes)
        except ValueError as fault:
            raise self._changed(self._snapshot.manifest_key) from fault
        for shard, index in zip(manifest.shards, indexes, strict=True):
            if packs:
                await self._pack(shard.key, index)
            await asyncio.to_thread(self._place, local_name(shard.index_key), write_index(index))
        if manifest.groups_key:
            await self._groups(manifest.groups_key)
        await asyncio.to_thread(self._place, MANIFEST_FILE, encoded)

    async def _groups(self, key: str) -> None:
        encoded = await self._blobs.get(key)
        try:
            read_groups(encoded)
        except ValueError as fault:
            raise self._changed(key) from fault
        await asyncio.to_thread(self._place, local_name(key), encoded)

    async def _index(self, key: str) -> ShardIndex:
        path = self._directory / local_name(key)
        here = await asyncio.to_thread(lambda: path.read_bytes() if path.exists() else None)
        return read_index(await self._blobs.get(key) if here is None else here)

    def _check(self, manifest: Manifest, indexes: list[ShardIndex]) -> None:
        """ValueError or DatasetChanged unless kind, categories and annotations have the record's digest."""
        if not self._snapshot.digest:
            _log.warning("snapshot_without_digest", dataset=self._snapshot.dataset)
            return
        digest = SnapshotDigest(manifest.kind, manifest.categories)
        for index in indexes:
            digest.add(index.records)
        if digest.hexdigest() != self._snapshot.digest:
            raise self._changed(f"the manifest {self._snapshot.manifest_key} or an index that it names")

    async def _pack(self, key: str, index: ShardIndex) -> None:
        path = self._directory / local_name(key)
        if await asyncio.to_thread(path.exists):
            return
        arriving = path.with_name(f"{path.name}.new")
        await self._blobs.get_file(key, arriving)
        try:
            await asyncio.to_thread(_check_images, arriving, index)
        except ValueError as fault:
            await asyncio.to_thread(arriving.unlink)
            raise self._changed(f"{key} ({fault})") from fault
        await asyncio.to_thread(arriving.replace, path)

    def _place(self, name: str, data: bytes) -> None:
        path = self._directory / name
        if not path.exists():
            arriving = path.with_name(f"{name}.new")
            arriving.write_bytes(data)
            arriving.replace(path)

    def _changed(self, file: str) -> DatasetChanged:
        return DatasetChanged(dataset=self._snapshot.dataset, file=file)


def _check_images(pack: Path, index: ShardIndex) -> None:
    """ValueError for an image whose bytes are not those of the index."""
    if not index.records:
        return
    with pack.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for record in index.records:
            read_record(content, record, verify=True)
