"""The list of an upload's files with their digests, in blobs of its own below the upload, which go with it."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from services.kit import codec
from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound
from services.kit.names import new_uid

FOLDER = ".sightline-files"  # no file of a caller is below it


class UploadedFile(msgspec.Struct, frozen=True, array_like=True):
    """A stored file; its path is relative to the upload."""

    path: str
    sha256: str
    size_bytes: int


Place = tuple[str, int]  # the key of a blob, and a file in it


async def put_list(blobs: Blobs, prefix: str, number: int, files: Sequence[UploadedFile]) -> str:
    """Adds files to the list of the upload at the prefix, which has `number` so far; returns the new blob's key."""
    key = f"{prefix}{FOLDER}/{number:012d}-{new_uid()}.json"
    await blobs.put(key, msgspec.json.encode(files))
    return key


async def listed(blobs: Blobs, prefix: str, start: Place) -> AsyncIterator[tuple[Place, UploadedFile]]:
    """The files from a place on, each with its place; those that are being deleted may be left out."""
    async for blob in blobs.list(f"{prefix}{FOLDER}/"):
        if blob.key < start[0]:
            continue
        try:
            files = codec.parse(await blobs.get(blob.key), list[UploadedFile])
        except BlobNotFound:
            continue
        for number, file in enumerate(files):
            if (blob.key, number) >= start:
                yield (blob.key, number), file
