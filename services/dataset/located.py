"""Finds images in the store whose names in the COCO file are written otherwise than their keys."""

import asyncio
from collections.abc import Sequence

from services.kit.blobs import Blobs, from_uri
from sightline.importers.names import Match, Resolver

MAX_LISTED = 100_000  # keys of a folder; with more, names must be written as the keys


class Located:
    """Names that were not found, resolved among the keys in the COCO files' folders; listed once, when first needed."""

    def __init__(self, blobs: Blobs, annotation_file_uris: Sequence[str]) -> None:
        self._blobs = blobs
        keys = (from_uri(uri, blobs.bucket) for uri in annotation_file_uris)
        self._folders = sorted({key.rpartition("/")[0] for key in keys}, key=len, reverse=True)
        self._resolvers: dict[str, Resolver] = {}
        self._lock = asyncio.Lock()

    async def find(self, key: str) -> Match:
        """The key that was meant by one that does not exist, or a clause that says what is there instead."""
        folder = next((one for one in self._folders if one and key.startswith(f"{one}/")), "")
        if not folder:  # another folder than the file's, or the whole store
            return Match()
        prefix = f"{folder}/"
        match = (await self._resolver(prefix)).find(key.removeprefix(prefix), by_end=False)
        return Match(prefix + match.path) if match.path else match

    async def _resolver(self, prefix: str) -> Resolver:
        async with self._lock:
            if prefix not in self._resolvers:
                names: list[str] = []
                async for blob in self._blobs.list(prefix):
                    names.append(blob.key.removeprefix(prefix))
                    if len(names) > MAX_LISTED:
                        names = []
                        break
                self._resolvers[prefix] = Resolver(names)
            return self._resolvers[prefix]
