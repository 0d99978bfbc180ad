"""The snapshot of a dataset: WebDataset tar shards, an index for each, and one manifest.

The dataset service writes it, the trainer reads it. Records ascend by image id through all shards, so that the same
annotations and images give the same digest however they are sharded. No torch.
"""

import hashlib
import io
import mmap
import tarfile
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import msgspec

from services.kit import codec
from services.vision.fingerprint import Fingerprint

FORMAT_VERSION = 1
SHARD_BYTES = 256 * 1024 * 1024  # a shard is closed once it is this large
MIN_IMAGES_PER_CATEGORY = 2  # to train on

_BLOCK = tarfile.BLOCKSIZE  # tar pads every member to a multiple of 512 bytes
_encoder = msgspec.json.Encoder(order="deterministic")


class AnnotationKind(StrEnum):
    """The kind of a dataset's annotations."""

    IMAGE_CLASSIFICATION = "IMAGE_CLASSIFICATION"
    OBJECT_DETECTION = "OBJECT_DETECTION"

    @property
    def min_categories(self) -> int:
        """How many categories training needs."""
        return 2 if self is AnnotationKind.IMAGE_CLASSIFICATION else 1


class Box(msgspec.Struct, frozen=True, array_like=True):
    """A region in absolute pixels of the upright packed image, clipped to it; an array of six in JSON."""

    x: float
    y: float
    w: float
    h: float
    category: int  # index into the manifest's categories
    iscrowd: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One image and its annotations; also the image's JSON member in the tar."""

    image_id: int  # as in the COCO file
    file_name: str  # as in the COCO file
    width: int  # of the packed, upright image
    height: int
    labels: tuple[int, ...] = ()  # indices into the manifest's categories
    boxes: tuple[Box, ...] = ()


class Record(Entry, frozen=True, kw_only=True, omit_defaults=True):
    """An entry, and where its image's bytes are in the shard."""

    offset: int
    size: int  # bytes
    sha256: str  # of the image's bytes
    extension: str = ""  # jpg or png; empty in snapshots of earlier versions
    fingerprint: Fingerprint | None = None  # None in snapshots of older versions


class ShardIndex(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a shard."""

    records: tuple[Record, ...]
    sha256: str  # of the tar
    size_bytes: int  # of the tar


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """A category and how often it occurs."""

    id: int  # as in the COCO file
    name: str
    image_count: int
    annotation_count: int


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Where a shard and its index are in the store."""

    key: str
    index_key: str
    sha256: str
    size_bytes: int
    record_count: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A whole snapshot; small however many images it has."""

    format_version: int = FORMAT_VERSION
    kind: AnnotationKind
    categories: tuple[Category, ...]
    shards: tuple[Shard, ...]
    image_count: int
    digest: str
    groups_key: str = ""  # of the groups of near-duplicates; empty if there are none, or in older snapshots

    def encode(self) -> bytes:
        """Deterministic JSON."""
        return _encoder.encode(self)


class PackWriter:
    """Writes one shard into `file`, which must be empty; `close` ends it and returns its index.

    The bytes depend on the entries and images only, not on this machine's times, owners or modes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._records: list[Record] = []
        self.size_bytes = 0

    @property
    def full(self) -> bool:
        """Whether the shard is full; the caller then closes it and opens the next."""
        return self.size_bytes >= SHARD_BYTES

    def add(self, entry: Entry, image: bytes, extension: str, looks: Fingerprint | None = None) -> Record:
        """Appends one image; raises ValueError unless ids ascend."""
        if self._records and entry.image_id <= self._records[-1].image_id:
            raise ValueError(f"image ids must ascend: {entry.image_id} after {self._records[-1].image_id}")
        stem = f"{entry.image_id:012d}"
        offset = self._member(f"{stem}.{extension}", image)
        self._member(f"{stem}.json", _encoder.encode(entry))
        record = Record(
            **{name: getattr(entry, name) for name in Entry.__struct_fields__},
            offset=offset,
            size=len(image),
            sha256=hashlib.sha256(image).hexdigest(),
            extension=extension,
            fingerprint=looks,
        )
        self._records.append(record)
        return record

    def close(self) -> ShardIndex:
        """Ends the tar and returns its index; the file stays open, at its end."""
        self._write(b"\0" * (2 * _BLOCK))
        return ShardIndex(records=tuple(self._records), sha256=self._sha256.hexdigest(), size_bytes=self.size_bytes)

    def _member(self, name: str, data: bytes) -> int:
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size_bytes
        self._write(data)
        self._write(b"\0" * (-len(data) % _BLOCK))
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size_bytes += len(data)


def write_index(index: ShardIndex) -> bytes:
    """Deterministic JSON."""
    return _encoder.encode(index)


def read_index(data: bytes) -> ShardIndex:
    """Inverse of `write_index`; raises ValueError for anything else."""
    return codec.parse(data, ShardIndex)


def read_manifest(data: bytes) -> Manifest:
    """Inverse of `Manifest.encode`; raises ValueError for another format version."""
    manifest = codec.parse(data, Manifest)
    if manifest.format_version != FORMAT_VERSION:
        raise ValueError(f"snapshot format {manifest.format_version} is not {FORMAT_VERSION}")
    return manifest


class Groups(msgspec.Struct, frozen=True):
    """Images that are equal or nearly so, by image id: ascending within a group, groups by their first image."""

    groups: tuple[tuple[int, ...], ...]


def write_groups(groups: Groups) -> bytes:
    """Deterministic JSON."""
    return _encoder.encode(groups)


def read_groups(data: bytes) -> Groups:
    """Inverse of `write_groups`; raises ValueError for anything else."""
    return codec.parse(data, Groups)


def read_record(pack: Path | mmap.mmap | bytes | memoryview, record: Record, *, verify: bool = False) -> bytes:
    """The image's bytes, from a shard's path or its memory map.

    Raises ValueError if the shard is too short, or, with `verify`, if the bytes are not those of the index.
    """
    if isinstance(pack, Path):
        with pack.open("rb") as file:
            file.seek(record.offset)
            data = file.read(record.size)
    else:
        data = bytes(pack[record.offset : record.offset + record.size])
    if len(data) != record.size or (verify and hashlib.sha256(data).hexdigest() != record.sha256):
        raise ValueError(f"shard does not hold image {record.image_id} ({record.file_name}) at {record.offset}")
    return data


class SnapshotDigest:
    """The digest of a snapshot's content, computed index by index: its images and their annotations.

    It depends on kind, categories and every packed byte, but not on how records are sharded, nor on fingerprints and
    groups, which follow from the bytes.
    """

    def __init__(self, kind: AnnotationKind, categories: Sequence[Category]) -> None:
        self._sha256 = hashlib.sha256(_encoder.encode([FORMAT_VERSION, kind, [[c.id, c.name] for c in categories]]))
        self._last_id: int | None = None

    def add(self, records: Iterable[Record]) -> None:
        """Adds the records of the next shard; raises ValueError unless ids keep ascending."""
        for record in records:
            if self._last_id is not None and record.image_id <= self._last_id:
                raise ValueError(f"image ids must ascend: {record.image_id} after {self._last_id}")
            self._last_id = record.image_id
            row = (record.image_id, record.file_name, record.width, record.height)
            self._sha256.update(_encoder.encode([*row, record.labels, record.boxes, record.sha256]))

    def hexdigest(self) -> str:
        """`sha256:` and 64 hexadecimal digits."""
        return f"sha256:{self._sha256.hexdigest()}"


def count_categories(names: Sequence[tuple[int, str]], indexes: Iterable[ShardIndex]) -> tuple[Category, ...]:
    """The categories, given as (id, name) in order, with the counts found in the indexes.

    Images count that show a single object of the category; annotations also count groups of objects.
    """
    images, annotations = [0] * len(names), [0] * len(names)
    for index in indexes:
        for record in index.records:
            for category in (*record.labels, *(box.category for box in record.boxes)):
                annotations[category] += 1
            for category in {*record.labels, *(box.category for box in record.boxes if not box.iscrowd)}:
                images[category] += 1
    return tuple(
        Category(id=id_, name=name, image_count=images[i], annotation_count=annotations[i])
        for i, (id_, name) in enumerate(names)
    )


def pack_into_bytes(items: Iterable[tuple[Entry, bytes, str]]) -> tuple[bytes, ShardIndex]:
    """A small shard in memory: (entry, image, extension) in ascending order of ids."""
    file = io.BytesIO()
    writer = PackWriter(file)
    for entry, image, extension in items:
        writer.add(entry, image, extension)
    index = writer.close()
    return file.getvalue(), index
