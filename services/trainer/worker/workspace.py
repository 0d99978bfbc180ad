"""The worker's folder: snapshots, weights and bundles fetched from the store, and scratch space for attempts."""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from services.kit.blobs import BlobInfo, Blobs, check_key, delete_prefix
from services.kit.errors import BlobNotFound, DatasetNotFound, SightlineError
from services.trainer.datasets import Snapshot
from services.trainer.messages import local_name
from services.trainer.worker.feature_bank import FeatureBank
from services.trainer.worker.snapshots import Snapshots
from services.vision.packs import DESCRIPTION_SUFFIX, WEIGHTS_SUFFIX, description_of

KEPT_FOLDERS = 4  # of snapshots, and of bundles and checkpoints; an attempt needs at most two of these
WEIGHTS_PREFIX = "weights/"
KEPT_SUFFIXES = (WEIGHTS_SUFFIX, DESCRIPTION_SUFFIX)
CACHE_BYTES = 20 * 2**30  # of features
_ATTEMPTS, _FOLDERS = "attempts", "folders"


def cleared(root: Path) -> Path:
    """The folder of temporary files, which is empty, as is that of fetched files: a dead worker may have left some."""
    for name in (_ATTEMPTS, _FOLDERS):
        shutil.rmtree(root / name, ignore_errors=True)
    temporary = root / _ATTEMPTS
    temporary.mkdir(parents=True)
    return temporary


class Workspace:
    """Law: files appear complete or not at all, and may be deleted whenever no attempt runs."""

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self._root = root
        self.blobs = blobs

    async def snapshot(self, snapshot: Snapshot, *, packs: bool = True) -> Path:
        """A folder with the snapshot's manifest, packs and indexes; DatasetNotFound if its dataset was deleted.

        Without `packs` it fetches no images. DatasetChanged unless everything is as its record's digest says.
        """
        directory = self._made("snapshots", snapshot.digest.replace(":", "-"))
        try:
            await Snapshots(self.blobs, snapshot, directory).fetch(packs=packs)
        except BlobNotFound:
            raise DatasetNotFound(name=snapshot.dataset) from None
        await asyncio.to_thread(_keep, directory)
        return directory

    async def folder(self, prefix: str) -> Path:
        """The blobs under a prefix as a folder of files; BlobNotFound if there are none."""
        directory = self._made(_FOLDERS, hashlib.sha256(prefix.encode()).hexdigest())  # prefixes may be too long
        found = False
        async for blob in self.blobs.list(prefix):
            await self._fetch(blob.key, directory / check_key(blob.key.removeprefix(prefix)))
            found = True
        if not found:
            raise BlobNotFound(name=prefix)
        await asyncio.to_thread(_keep, directory)
        return directory

    async def cache(self) -> Path:
        """The folder that all trials share, for features and weights."""
        directory = self._made("cache")
        await asyncio.to_thread(_trim, directory)
        return directory

    async def fetch_weights(self, networks: Collection[str]) -> None:
        """Brings the store's packs of these networks into that folder."""
        directory = self._made("cache")
        async for blob in self.blobs.list(WEIGHTS_PREFIX):
            name = local_name(blob.key)
            if name.endswith(WEIGHTS_SUFFIX) and name.removesuffix(WEIGHTS_SUFFIX) in networks:
                await self._fetch_weights(blob, directory / name)

    def features(self, snapshot: Snapshot) -> FeatureBank:
        """The features of a snapshot."""
        return FeatureBank(self.blobs, snapshot, self._made("cache"))

    async def _fetch_weights(self, blob: BlobInfo, path: Path) -> None:
        """Copies weights unless the copy is current; of the same size, it is if their description has not changed."""
        try:
            description = await self.blobs.get(blob.key.removesuffix(WEIGHTS_SUFFIX) + DESCRIPTION_SUFFIX)
        except BlobNotFound:
            description = None
        if await asyncio.to_thread(_is_current, path, blob.size_bytes, description):
            return
        await self.blobs.get_file(blob.key, path)
        await asyncio.to_thread(_describe, path, description)

    async def upload(self, directory: Path, prefix: str) -> None:
        """Stores every file of a folder under the prefix."""
        for path in await asyncio.to_thread(lambda: sorted(directory.iterdir())):
            await self.blobs.put_file(prefix + path.name, path)

    async def forget(self, prefix: str) -> None:
        """Deletes blobs that nothing refers to; those missed in an outage are deleted with their model."""
        with suppress(SightlineError):
            await delete_prefix(self.blobs, prefix)

    def attempt(self) -> "tempfile.TemporaryDirectory[str]":
        """A temporary folder for one attempt."""
        return tempfile.TemporaryDirectory(dir=self._made(_ATTEMPTS))

    def _made(self, *parts: str) -> Path:
        directory = self._root.joinpath(*parts)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    async def _fetch(self, key: str, path: Path) -> None:
        if not await asyncio.to_thread(path.exists):
            await self.blobs.get_file(key, path)


def _is_current(path: Path, size: int, description: bytes | None) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    described = description_of(path)
    return (described.read_bytes() if described.is_file() else None) == description


def _describe(weights: Path, description: bytes | None) -> None:
    path = description_of(weights)
    path.unlink(missing_ok=True)
    if description is not None:
        path.write_bytes(description)


def _keep(directory: Path) -> None:
    """Marks a folder as used and removes the least recently used of its siblings."""
    directory.touch()
    by_age = sorted(directory.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for forgotten in by_age[KEPT_FOLDERS:]:
        shutil.rmtree(forgotten, ignore_errors=True)


def _trim(directory: Path) -> None:
    """Removes the least recently used features until the rest fits; weights stay."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix not in KEPT_SUFFIXES]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    kept = 0
    for path in files:
        kept += path.stat().st_size
        if kept > CACHE_BYTES:
            path.unlink(missing_ok=True)
