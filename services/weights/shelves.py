"""The two places of weight packs that workers read: a folder, and the store."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound
from services.vision.packs import DESCRIPTION_SUFFIX, WEIGHTS_SUFFIX, description_of

PREFIX = "weights/"


class Shelf(Protocol):
    """Packs by network.

    Law: a pack that is replaced never has the description of another file, whenever the process ends.
    """

    name: str  # for people

    async def networks(self) -> list[str]:
        """The networks that have weights, in alphabetical order."""
        ...

    async def fetch(self, network: str, directory: Path) -> Path:
        """The file of weights, its description beside it if it has one; may be a copy in the directory."""
        ...

    async def put(self, network: str, weights: Path, description: bytes) -> None:
        """Adds or replaces a pack."""
        ...


class FolderShelf:
    """A folder of packs, made when the first is added."""

    def __init__(self, folder: Path) -> None:
        self.name = f"the folder {folder}"
        self._folder = folder

    async def networks(self) -> list[str]:
        files = await asyncio.to_thread(lambda: sorted(self._folder.glob(f"*{WEIGHTS_SUFFIX}")))
        return [file.name.removesuffix(WEIGHTS_SUFFIX) for file in files]

    async def fetch(self, network: str, directory: Path) -> Path:
        return self._folder / f"{network}{WEIGHTS_SUFFIX}"

    async def put(self, network: str, weights: Path, description: bytes) -> None:
        await asyncio.to_thread(self._put, network, weights, description)

    def _put(self, network: str, weights: Path, description: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"{network}{WEIGHTS_SUFFIX}"
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            copy, described = Path(scratch, "weights"), Path(scratch, "description")
            shutil.copyfile(weights, copy)
            described.write_bytes(description)
            description_of(target).unlink(missing_ok=True)
            copy.replace(target)
            described.replace(description_of(target))


class StoreShelf:
    """The packs in the store, which workers copy."""

    def __init__(self, blobs: Blobs) -> None:
        self.name = "the store"
        self._blobs = blobs

    async def networks(self) -> list[str]:
        keys = [blob.key async for blob in self._blobs.list(PREFIX) if blob.key.endswith(WEIGHTS_SUFFIX)]
        return [key.removeprefix(PREFIX).removesuffix(WEIGHTS_SUFFIX) for key in keys]

    async def fetch(self, network: str, directory: Path) -> Path:
        path = directory / f"{network}{WEIGHTS_SUFFIX}"
        await self._blobs.get_file(f"{PREFIX}{path.name}", path)
        try:
            await self._blobs.get_file(f"{PREFIX}{network}{DESCRIPTION_SUFFIX}", description_of(path))
        except BlobNotFound:
            description_of(path).unlink(missing_ok=True)
        return path

    async def put(self, network: str, weights: Path, description: bytes) -> None:
        stem = f"{PREFIX}{network}"
        await self._blobs.delete(stem + DESCRIPTION_SUFFIX)
        await self._blobs.put_file(stem + WEIGHTS_SUFFIX, weights)
        await self._blobs.put(stem + DESCRIPTION_SUFFIX, description)
