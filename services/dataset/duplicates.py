"""Finds images of a snapshot that are equal or nearly so, by the fingerprints in its indexes."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.dataset.findings import FindingLog
from services.kit.blobs import Blobs
from services.vision.fingerprint import HASH_BYTES
from services.vision.near_duplicates import Hashes, Indices, first_of, linked, near_groups
from services.vision.snapshot import Box, Groups, Record, Shard, read_index

_CODES = {  # by whether the images are equal, and whether their annotations disagree
    (True, False): "exactDuplicate",
    (True, True): "duplicateLabelsDiffer",
    (False, False): "nearDuplicate",
    (False, True): "nearLabelsDiffer",
}
_DIGEST_BYTES = 16
Digests = NDArray[np.bytes_]
_NO_HASH = bytes(HASH_BYTES)


@dataclass(slots=True)
class Fingerprints:
    """Those of many images, about 100 bytes for each."""

    ids: list[int] = field(default_factory=list[int])
    complete: bool = True  # False if an image has none: its snapshot is of an older version
    _files: bytearray = field(default_factory=bytearray)
    _pixels: bytearray = field(default_factory=bytearray)
    _hashes: bytearray = field(default_factory=bytearray)

    def add(self, record: Record) -> None:
        """Appends an image; one without a fingerprint equals only those with the same bytes."""
        looks = record.fingerprint
        self.complete = self.complete and looks is not None
        self.ids.append(record.image_id)
        self._files += bytes.fromhex(record.sha256)[:_DIGEST_BYTES]
        self._pixels += bytes.fromhex(looks.pixels if looks else record.sha256)[:_DIGEST_BYTES]
        self._hashes += bytes.fromhex(looks.perceptual) if looks and looks.perceptual else _NO_HASH

    @property
    def files(self) -> Digests:
        """[images]: digests of the packed files."""
        return np.frombuffer(self._files, f"S{_DIGEST_BYTES}")

    @property
    def pixels(self) -> Digests:
        """[images]: digests."""
        return np.frombuffer(self._pixels, f"S{_DIGEST_BYTES}")

    @property
    def hashes(self) -> Hashes:
        """[images, HASH_BYTES]; zeros for an image that has none."""
        return np.frombuffer(self._hashes, np.uint8).reshape(-1, HASH_BYTES)

    @property
    def hashed(self) -> Indices:
        """The images that have a perceptual hash."""
        return np.flatnonzero(self.hashes.any(axis=1))


@dataclass(frozen=True, slots=True)
class Duplicates:
    """[images]: the first image with the same pixels, and the first one of the group of near-duplicates."""

    ids: list[int]
    equal: Indices
    alike: Indices

    @property
    def others(self) -> Indices:
        """[images]: the earlier image that each repeats, an equal one if there is one; -1 if it repeats none."""
        own = np.arange(len(self.ids))
        return np.where(self.equal != own, self.equal, np.where(self.alike != own, self.alike, -1))

    @property
    def groups(self) -> Groups:
        """The groups of several images."""
        repeated = np.flatnonzero(np.bincount(self.alike, minlength=len(self.alike))[self.alike] > 1)
        members: dict[int, list[int]] = {}
        for index in repeated.tolist():
            members.setdefault(int(self.alike[index]), []).append(self.ids[index])
        return Groups(groups=tuple(map(tuple, members.values())))


async def records_of(blobs: Blobs, shards: Sequence[Shard]) -> AsyncIterator[Record]:
    """The records of all shards, ascending by image id, with one index in memory at a time."""
    for shard in shards:
        for record in read_index(await blobs.get(shard.index_key)).records:
            yield record


async def fingerprints_of(blobs: Blobs, shards: list[Shard]) -> Fingerprints:
    """The fingerprints of all images of the shards."""
    found = Fingerprints()
    async for record in records_of(blobs, shards):
        found.add(record)
    return found


def find_duplicates(images: Fingerprints) -> Duplicates:
    """Which images repeat others; depends on the images and their order alone."""
    equal = first_of(images.pixels)
    hashed = images.hashed
    alike = linked(equal, hashed, hashed[near_groups(images.hashes[hashed])])
    return Duplicates(images.ids, equal, alike)


async def note_duplicates(
    blobs: Blobs, shards: list[Shard], found: Duplicates, categories: list[str], log: FindingLog
) -> None:
    """Adds a finding for each image that repeats an earlier one."""
    index, firsts, others = -1, dict[int, Record](), found.others.tolist()
    needed = set(others)
    async for record in records_of(blobs, shards):
        index += 1
        firsts |= {index: record} if index in needed else {}
        other = others[index]
        if other < 0:
            continue
        first, equal = firsts[other], int(found.equal[index]) == other
        difference = _difference(first, record, categories, equal=equal)
        log.add(
            _CODES[equal, bool(difference)],
            record.file_name,
            record.image_id,
            other=first.file_name,
            other_id=first.image_id,
            difference=difference,
        )


def _difference(one: Record, other: Record, categories: list[str], *, equal: bool) -> str:
    """How the annotations of two images disagree; empty if they do not. Frames of a scene may differ in their boxes."""
    if one.labels and other.labels and one.labels != other.labels:
        return f"is labelled {categories[other.labels[0]]!r} rather than {categories[one.labels[0]]!r}"
    if equal and _places(one.boxes) != _places(other.boxes):
        return f"has other boxes ({len(other.boxes)} here, {len(one.boxes)} there)"
    return ""


def _places(boxes: tuple[Box, ...]) -> list[tuple[int, ...]]:
    return sorted((box.category, *(round(side) for side in (box.x, box.y, box.w, box.h))) for box in boxes)
