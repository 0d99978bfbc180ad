"""The feature bank as a worker sees it: the blocks of a snapshot in the store, and those in its own folder."""

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from services.kit.blobs import Blobs, delete_prefix
from services.kit.errors import BlobNotFound, SightlineError
from services.kit.log import Log
from services.trainer import feature_blocks
from services.trainer.datasets import Snapshot
from services.trainer.feature_blocks import network_of
from services.trainer.recipe import Recipe

FETCH_SECONDS = 60.0  # a trial waits no longer, and computes what is missing
SHARE_SECONDS = 30.0  # a worker's next trial waits no longer; what is left is stored after that

_log = Log(__name__)


class FeatureBank:
    """Law: never raises, and loses nothing but compute. A block in the store never changes; a damaged one is removed.

    Blocks are the dataset's: they are deleted with it. A dataset's manifest is deleted first, so blocks stored while
    the manifest is there are found by the deletion; blocks stored later are removed by whoever stored them.
    """

    def __init__(self, blobs: Blobs, snapshot: Snapshot, cache: Path) -> None:
        self._blobs = blobs
        self._snapshot = snapshot
        self._folder = feature_blocks.folder_of(cache, snapshot.digest)

    async def fetch(self, recipe: Recipe, device: str) -> None:
        """Brings the blocks that a recipe reads into the worker's folder, as far as the store has them."""
        if not (kinds := feature_blocks.kinds_of(recipe, device)):
            return
        with _tolerated("features_not_fetched"):
            async with asyncio.timeout(FETCH_SECONDS):
                for name in _wanted(recipe, kinds, await self._stored()):
                    await self._fetch(name)

    async def names(self) -> list[str]:
        """The names of the blocks in the store, as far as it responds."""
        with _tolerated("features_not_listed"):
            return await self._stored()
        return []

    async def share(self) -> None:
        """Stores the blocks in the worker's folder that the store lacks."""
        with _tolerated("features_not_shared"):
            if not (local := await asyncio.to_thread(self._local)):
                return
            stored = set(await self._stored())
            if new := [name for name in local if name not in stored]:
                await self._store(new)

    async def _store(self, names: list[str]) -> None:
        try:
            async with asyncio.timeout(SHARE_SECONDS):
                for name in names:
                    if (data := await asyncio.to_thread(self._read, name)) is not None:
                        await self._blobs.put(self._snapshot.features_prefix + name, data)
        finally:
            try:
                await self._blobs.stat(self._snapshot.manifest_key)
            except BlobNotFound:
                await delete_prefix(self._blobs, self._snapshot.features_prefix)

    async def _fetch(self, name: str) -> None:
        path, key = self._folder / name, self._snapshot.features_prefix + name
        if await asyncio.to_thread(path.exists):
            os.utime(path)  # used
            return
        data = await self._blobs.get(key)
        if await asyncio.to_thread(_is_sound, data, name):
            await asyncio.to_thread(feature_blocks.write, path, data)
        else:
            await self._blobs.delete(key)  # so that its replacement is stored

    async def _stored(self) -> list[str]:
        """The names of the blocks in the store."""
        prefix = self._snapshot.features_prefix
        return [blob.key.removeprefix(prefix) async for blob in self._blobs.list(prefix)]

    def _local(self) -> list[str]:
        found = (path for path in self._folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return sorted(str(path.relative_to(self._folder)) for path in found)

    def _read(self, name: str) -> bytes | None:
        """A block of the folder; None if it is damaged or gone."""
        path = self._folder / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if _is_sound(data, name):
            return data
        path.unlink(missing_ok=True)
        return None


def _wanted(recipe: Recipe, kinds: tuple[str, ...], stored: list[str]) -> list[str]:
    """The blocks that a recipe reads.

    A network without blocks may have no weights; they are then of whichever took its place.
    """
    alike = [name for name in stored if name.startswith(kinds)]
    replaced = set(recipe.backbones) - {network_of(name) for name in alike}
    return [name for name in alike if replaced or network_of(name) in recipe.backbones]


def _is_sound(data: bytes, name: str) -> bool:
    """Whether the file is that of the block; logs a warning if not."""
    try:
        feature_blocks.decode(data, name)
    except ValueError as fault:
        _log.warning("feature_block_damaged", block=name, problem=str(fault))
        return False
    return True


@contextmanager
def _tolerated(event: str) -> Generator[None]:
    """Logs what keeps blocks from being fetched or shared, which costs compute only."""
    try:
        yield
    except (SightlineError, OSError) as error:  # TimeoutError too
        _log.warning(event, problem=str(error) or type(error).__name__)
