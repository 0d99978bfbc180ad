"""The port to the blob store: immutable bytes under keys."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.kit.errors import BlobNotFound, UnreadableUri
from sightline.blob_keys import fault_of_key

PIECE_BYTES = 1 << 20
_SIGNED = re.compile(r"[?&](X-Amz-[A-Za-z-]+|Signature|sig)=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What the store knows about a blob without reading it."""

    key: str
    size_bytes: int


class Blobs(Protocol):
    """A flat space of keys in one bucket.

    Law: a put is atomic (a reader sees the whole blob or none, and an interrupted put leaves nothing visible) and is
    visible to every get that starts after it; putting a key again replaces the blob. A key that `check_key` refuses is
    a ValueError in every call, and no key is a folder of another (`a` and `a/b`). A missing key raises BlobNotFound
    from get, get_file and stat, but not from delete. A store that finds that a blob has changed raises BlobDamaged. An
    unreachable store raises Unavailable, one that refuses raises StoreRefused.
    """

    @property
    def bucket(self) -> str:
        """The bucket's name, as uris carry it."""
        ...

    async def put(self, key: str, data: bytes) -> None:
        """Stores the bytes."""
        ...

    async def put_file(self, key: str, path: Path) -> None:
        """Stores a file's content, in bounded memory."""
        ...

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes, or `length` of them from `start`: fewer at the end of the blob, none beyond it.

        ValueError if start or length is negative.
        """
        ...

    async def get_file(self, key: str, path: Path) -> None:
        """Writes the blob to a file, in bounded memory; the file appears complete or not at all."""
        ...

    async def stat(self, key: str) -> BlobInfo:
        """The blob's size."""
        ...

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Every blob whose key starts with the prefix, ordered by key."""
        ...

    async def delete(self, key: str) -> None:
        """Removes the blob if it is there."""
        ...

    async def ping(self) -> None:
        """Returns if the store responds and the bucket exists; Unavailable otherwise."""
        ...


def check_key(key: str) -> str:
    """The key itself; ValueError unless `sightline.blob_keys` accepts it, as every store does."""
    if fault := fault_of_key(key):
        raise ValueError(f"the key {key!r} {fault}")
    return key


def check_range(start: int, length: int | None) -> None:
    """ValueError if either is negative."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"the range from {start}, {length} bytes long, is negative")


def to_uri(bucket: str, key: str) -> str:
    """A blob's uri, as callers see it."""
    return f"s3://{bucket}/{key}"


def from_uri(uri: str, bucket: str, field: str = "uri") -> str:
    """The key in a caller's uri; UnreadableUri unless it is `s3://{bucket}/KEY` with a legal key."""
    if problem := _fault_of_uri(uri, bucket):
        raise UnreadableUri(field=field, uri=uri, problem=problem, bucket=bucket)
    return uri.removeprefix(to_uri(bucket, ""))


def _fault_of_uri(uri: str, bucket: str) -> str:
    scheme, separator, rest = uri.partition("://")
    found, _, key = rest.partition("/")
    if not separator:
        return "it has no scheme"
    if scheme != "s3":
        return f"the scheme {scheme!r} is not s3"
    if "@" in found:
        return "it has a user or a password, which are not needed"
    if _SIGNED.search(key):
        return "it is presigned, which is not needed; leave out its `?…`"
    if found != bucket:
        return f"the bucket {found!r} is not the store's"
    fault = fault_of_key(key)
    return f"its key {fault}" if fault else ""


async def delete_prefix(blobs: Blobs, prefix: str) -> int:
    """Deletes every blob under the prefix; returns how many. Safe to repeat."""
    count = 0
    async for blob in blobs.list(prefix):
        await blobs.delete(blob.key)
        count += 1
    return count


async def read_pieces(blobs: Blobs, key: str, size_bytes: int, start: int = 0) -> AsyncGenerator[bytes]:
    """A blob of this size from `start` on, in pieces of at most PIECE_BYTES; none beyond its end.

    BlobNotFound if it is gone, also in the middle, or shorter than that.
    """
    while start < size_bytes:
        piece = await blobs.get(key, start, min(PIECE_BYTES, size_bytes - start))
        if not piece:
            raise BlobNotFound(name=to_uri(blobs.bucket, key))
        yield piece
        start += len(piece)
