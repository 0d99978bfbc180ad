"""A sample of a snapshot, as a small snapshot of its own: only the images in it are fetched from the store."""

import asyncio
import hashlib
import random
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from services.kit.blobs import Blobs
from services.trainer.messages import MANIFEST_FILE, local_name
from services.vision.snapshot import (
    MIN_IMAGES_PER_CATEGORY,
    Box,
    Entry,
    Manifest,
    Record,
    Shard,
    count_categories,
    pack_into_bytes,
    read_index,
    read_manifest,
    write_index,
)

FETCHES = 8  # from the store at once
PACK, INDEX = "sample/0.tar", "sample/0.json"


class Row(NamedTuple):
    """An image of a snapshot: its record, and the key of its shard."""

    record: Record
    shard: str


class Contents(NamedTuple):
    """A snapshot without its images."""

    manifest: Manifest
    rows: tuple[Row, ...]


def read_contents(directory: Path) -> Contents:
    """What manifest and indexes in the folder say."""
    manifest = read_manifest((directory / MANIFEST_FILE).read_bytes())
    rows: list[Row] = []
    for shard in manifest.shards:
        index = read_index((directory / local_name(shard.index_key)).read_bytes())
        rows.extend(Row(record, shard.key) for record in index.records)
    return Contents(manifest, tuple(rows))


def categories_of(record: Record) -> set[int]:
    """The categories that the image shows, except in crowds."""
    return {*record.labels, *(box.category for box in record.boxes if not box.iscrowd)}


def choose(rows: Sequence[Row], each: int, most: int, seed: int) -> list[Row]:
    """Up to `each` images of every category, at most `most` in total, in the snapshot's order.

    Every category gets its second image before any gets a third. If there is no room for two of each, only as many
    categories, drawn by the seed, as there is room for.
    """
    draw = random.Random(seed)  # noqa: S311 - a sample, not a secret
    having = defaultdict[int, list[int]](list)
    for number in draw.sample(range(len(rows)), len(rows)):
        for category in categories_of(rows[number].record):
            having[category].append(number)
    categories = draw.sample(sorted(having), min(len(having), most // MIN_IMAGES_PER_CATEGORY))
    chosen: set[int] = set()
    for wanted in range(MIN_IMAGES_PER_CATEGORY, max(MIN_IMAGES_PER_CATEGORY, each) + 1):
        before = len(chosen)
        for category in categories:
            missing = wanted - len(chosen.intersection(having[category]))
            spare = [number for number in having[category] if number not in chosen]
            chosen.update(spare[: max(0, min(missing, most - len(chosen)))])
        if len(chosen) == before and wanted > MIN_IMAGES_PER_CATEGORY:
            break
    return [rows[number] for number in sorted(chosen)]


async def write_sample(blobs: Blobs, manifest: Manifest, rows: Sequence[Row], directory: Path) -> Path:
    """Fetches the images and writes them as a snapshot into the new folder, which is returned.

    It has the categories with two images among them, and a digest that no other sample has, so that no feature of an
    earlier probe makes this one look fast. ValueError if an image's bytes are not those of its record.
    """
    gate = asyncio.Semaphore(FETCHES)

    async def fetch(row: Row) -> bytes:
        async with gate:
            image = await blobs.get(row.shard, row.record.offset, row.record.size)
        if hashlib.sha256(image).hexdigest() != row.record.sha256:
            raise ValueError(f"{row.shard} (image {row.record.image_id}, {row.record.file_name})")
        return image

    images = await asyncio.gather(*(fetch(row) for row in rows))
    await asyncio.to_thread(_write, manifest, [row.record for row in rows], images, directory)
    return directory


def _write(manifest: Manifest, records: Sequence[Record], images: Sequence[bytes], directory: Path) -> None:
    shown = [categories_of(record) for record in records]
    kept = [
        number
        for number in range(len(manifest.categories))
        if sum(number in categories for categories in shown) >= MIN_IMAGES_PER_CATEGORY
    ]
    place = {number: index for index, number in enumerate(kept)}
    entries = [_renumbered(record, place) for record in records]
    tar, index = pack_into_bytes((entry, image, "image") for entry, image in zip(entries, images, strict=True))
    names = [(manifest.categories[number].id, manifest.categories[number].name) for number in kept]
    small = Manifest(
        kind=manifest.kind,
        categories=count_categories(names, [index]),
        shards=(Shard(key=PACK, index_key=INDEX, sha256=index.sha256, size_bytes=len(tar), record_count=len(records)),),
        image_count=len(records),
        digest=f"sha256:{hashlib.sha256(uuid.uuid4().bytes).hexdigest()}",
    )
    directory.mkdir(parents=True)
    (directory / local_name(PACK)).write_bytes(tar)
    (directory / local_name(INDEX)).write_bytes(write_index(index))
    (directory / MANIFEST_FILE).write_bytes(small.encode())


def _renumbered(record: Record, place: dict[int, int]) -> Entry:
    """The image with the sample's category numbers; annotations of other categories are left out."""
    return Entry(
        image_id=record.image_id,
        file_name=record.file_name,
        width=record.width,
        height=record.height,
        labels=tuple(place[label] for label in record.labels if label in place),
        boxes=tuple(
            Box(box.x, box.y, box.w, box.h, place[box.category], box.iscrowd)
            for box in record.boxes
            if box.category in place
        ),
    )
