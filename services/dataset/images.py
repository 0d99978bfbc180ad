"""Reads the images of a READY dataset back from its snapshot, in bounded memory."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.dataset import store
from services.kit.blobs import Blobs, to_uri
from services.kit.errors import BlobNotFound, DatasetChanged
from services.vision.snapshot import Manifest, Record, Shard, read_index

CHUNK_BYTES = 1 << 20  # read at once
LISTED_BYTES = 256 << 10  # of annotations in one piece, about
_IMAGE_BYTES, _BOX_BYTES = 200, 50  # of annotations in a message, about


@dataclass(frozen=True, slots=True)
class Images:
    """Records of a snapshot, in its order."""

    records: tuple[Record, ...]


Piece = Manifest | Images | bytes


async def read_images(
    blobs: Blobs, dataset: str, manifest_key: str, after: int | None, *, annotations_only: bool
) -> AsyncGenerator[Piece]:
    """The manifest, then the images with an id above `after`: each on its own and then its bytes, or several without.

    Raises DatasetChanged for files that are missing or not those of the record.
    """
    try:
        manifest = await store.get_manifest(blobs, manifest_key)
        yield manifest
        start = 0 if after is None else await _first_shard(blobs, manifest.shards, after)
        for shard in manifest.shards[start:]:
            found = read_index(await blobs.get(shard.index_key)).records
            wanted = found if after is None else tuple(one for one in found if one.image_id > after)
            if annotations_only:
                for images in _listed(wanted):
                    yield images
                continue
            async for piece in _with_bytes(blobs, dataset, shard, wanted):
                yield piece
    except BlobNotFound as error:
        raise DatasetChanged(dataset=dataset, file=error.metadata["name"]) from None


async def _first_shard(blobs: Blobs, shards: Sequence[Shard], after: int) -> int:
    """The place of the first shard that can have an id above `after`; ids ascend, so few of the indexes are read."""
    low, high = 0, len(shards)
    while low < high:
        middle = (low + high) // 2
        records = read_index(await blobs.get(shards[middle].index_key)).records
        if records and records[-1].image_id <= after:
            low = middle + 1
        else:
            high = middle
    return low


def _listed(records: Iterable[Record]) -> Iterator[Images]:
    batch, size = list[Record](), 0
    for record in records:
        batch.append(record)
        size += _IMAGE_BYTES + len(record.file_name) + _BOX_BYTES * len(record.boxes)
        if size >= LISTED_BYTES:
            yield Images(tuple(batch))
            batch, size = [], 0
    if batch:
        yield Images(tuple(batch))


async def _with_bytes(blobs: Blobs, dataset: str, shard: Shard, records: Iterable[Record]) -> AsyncIterator[Piece]:
    """Each image and its bytes; small images that are next to each other are read at once."""
    changed = DatasetChanged(dataset=dataset, file=to_uri(blobs.bucket, shard.key))
    for span in _spans(records):
        first, last = span[0], span[-1]
        if first.size > CHUNK_BYTES:
            yield Images((first,))
            async for chunk in _in_chunks(blobs, shard, first, changed):
                yield chunk
            continue
        data = await blobs.get(shard.key, first.offset, last.offset + last.size - first.offset)
        for record in span:
            image = data[record.offset - first.offset :][: record.size]
            if hashlib.sha256(image).hexdigest() != record.sha256:
                raise changed
            yield Images((record,))
            if image:
                yield image


def _spans(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in runs of at most CHUNK_BYTES; a larger one is alone."""
    span = list[Record]()
    for record in records:
        if span and record.offset + record.size - span[0].offset > CHUNK_BYTES:
            yield span
            span = []
        span.append(record)
    if span:
        yield span


async def _in_chunks(blobs: Blobs, shard: Shard, record: Record, changed: DatasetChanged) -> AsyncIterator[bytes]:
    """A large image's bytes; the last of them only once all are what the record says."""
    digest = hashlib.sha256()
    for start in range(0, record.size, CHUNK_BYTES):
        size = min(CHUNK_BYTES, record.size - start)
        chunk = await blobs.get(shard.key, record.offset + start, size)
        await asyncio.to_thread(digest.update, chunk)
        if start + size == record.size and digest.hexdigest() != record.sha256:
            raise changed
        yield chunk
