"""A snapshot on the local disk as a list of images, and which of them are unreadable."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import (
    DatasetAnnotationsInvalid,
    DatasetCorrupt,
    DatasetEmpty,
    IncorrectModelKind,
    InvalidImage,
)
from services.trainer.messages import MANIFEST_FILE, local_name
from services.vision.card import ModelKind
from services.vision.decode import decode, decode_sizes
from services.vision.near_duplicates import first_of
from services.vision.snapshot import (
    AnnotationKind,
    Manifest,
    Record,
    read_groups,
    read_index,
    read_manifest,
    read_record,
)

MAX_UNREADABLE = 0.05  # share of a snapshot's images
LISTED_UNREADABLE = 100

Pixels = NDArray[np.uint8]
Indices = NDArray[np.int64]
Floats = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its category; `label` is -1 in a detection snapshot."""

    record: Record
    shard: Path
    label: int


@dataclass(slots=True)
class Images:
    """The images of a snapshot, ascending by image id, and those found unreadable so far."""

    dataset: str
    manifest: Manifest
    samples: tuple[Sample, ...]
    first_alike: Mapping[int, int] = field(default_factory=dict[int, int])  # by image id, of near-duplicates
    unreadable: dict[int, str] = field(default_factory=dict[int, str])  # index: file name and problem

    @property
    def labels(self) -> Indices:
        """[images], category indices."""
        return np.array([sample.label for sample in self.samples], np.int64)

    @property
    def ids(self) -> Indices:
        """[images], image ids."""
        return np.array([sample.record.image_id for sample in self.samples], np.int64)

    @property
    def groups(self) -> Indices:
        """[images]: the first image of each one's group of near-duplicates, as the snapshot has them."""
        return first_of(np.array([self.first_alike.get(id_, id_) for id_ in self.ids.tolist()], np.int64))

    @property
    def categories(self) -> tuple[str, ...]:
        """Category names, in the order of the labels."""
        return tuple(category.name for category in self.manifest.categories)

    def read(self, index: int) -> bytes:
        """The packed bytes; raises ValueError or OSError if the shard does not hold them."""
        sample = self.samples[index]
        return read_record(sample.shard, sample.record)

    def pixels(self, index: int, at_least: int | None) -> Pixels | None:
        """Upright RGB, or None, with a note, if the image is unreadable. Thread-safe."""
        return self._decoded(index, lambda data, name: decode(data, name=name, at_least=at_least))

    def pixels_of(self, index: int, sizes: Iterable[int]) -> Mapping[int, Pixels] | None:
        """As `pixels`, for each `at_least` in `sizes`."""
        return self._decoded(index, lambda data, name: decode_sizes(data, sizes, name, min_side=1).pixels)

    def _decoded(self, index: int, how: Callable[[bytes, str], T]) -> T | None:
        """What `how` makes of the bytes and the name of the file; None, with a note, if the image is unreadable."""
        try:
            return how(self.read(index), self.samples[index].record.file_name)
        except (InvalidImage, ValueError, OSError) as fault:
            self.note_unreadable(index, fault)
            return None

    def note_unreadable(self, index: int, fault: Exception) -> None:
        """Notes which file is unreadable and why."""
        problem = fault.metadata["problem"] if isinstance(fault, InvalidImage) else "does not match the index"
        self.unreadable[index] = f"{self.samples[index].record.file_name} (it {problem})"

    def sound(self) -> NDArray[np.bool_]:
        """[images]: which have not been found unreadable."""
        return np.array([index not in self.unreadable for index in range(len(self.samples))], np.bool_)

    def require_readable(self) -> None:
        """Raises DatasetCorrupt if more than MAX_UNREADABLE of the images are unreadable."""
        if len(self.unreadable) <= MAX_UNREADABLE * len(self.samples):
            return
        files = ", ".join(self.unreadable[index] for index in sorted(self.unreadable)[:LISTED_UNREADABLE])
        raise DatasetCorrupt(
            unreadable=len(self.unreadable), image_count=len(self.samples), dataset=self.dataset, files=files
        )

    def unreadable_files(self) -> tuple[str, ...]:
        """The names of the first LISTED_UNREADABLE unreadable files."""
        indices = sorted(self.unreadable)[:LISTED_UNREADABLE]
        return tuple(self.samples[index].record.file_name for index in indices)

    def longer_sides(self) -> list[int]:
        """The longer side of each image, in pixels."""
        return [max(sample.record.width, sample.record.height) for sample in self.samples]


def open_images(directory: Path, dataset: str) -> Images:
    """Reads manifest and indexes, but no image.

    Images without a label, or with several different ones, are left out.
    Raises IncorrectModelKind for a detection snapshot, DatasetEmpty if no image is left.
    """
    manifest = read_manifest((directory / MANIFEST_FILE).read_bytes())
    if manifest.kind is not AnnotationKind.IMAGE_CLASSIFICATION:
        kind = ModelKind.GENERIC_CLASSIFIER.value
        raise IncorrectModelKind(model_kind=kind, dataset=dataset, annotation_kind=manifest.kind.value)
    samples: list[Sample] = []
    for records, pack in read_indexes(directory, manifest):
        samples.extend(_labelled(records, pack))
    if not samples:
        raise DatasetEmpty(dataset=dataset, detail=": none of its images has exactly one label")
    return Images(dataset, manifest, tuple(samples), read_alike(directory, manifest))


def read_alike(directory: Path, manifest: Manifest) -> dict[int, int]:
    """The first image of the group of each near-duplicate, by image id; empty for snapshots without groups."""
    if not manifest.groups_key:
        return {}
    groups = read_groups((directory / local_name(manifest.groups_key)).read_bytes()).groups
    return {image_id: group[0] for group in groups for image_id in group}


def read_indexes(directory: Path, manifest: Manifest) -> Iterator[tuple[Sequence[Record], Path]]:
    """The records of each shard, and the path of the shard."""
    for shard in manifest.shards:
        index = read_index((directory / local_name(shard.index_key)).read_bytes())
        yield index.records, directory / local_name(shard.key)


def require_trainable(images: Images) -> None:
    """Raises DatasetAnnotationsInvalid unless there are two categories and each has two images."""
    counts = np.bincount(images.labels, minlength=len(images.categories))
    few = [name for name, count in zip(images.categories, counts, strict=True) if count < 2]
    if len(images.categories) < 2 or few:
        problem = f"needs at least two categories of two images each; too few images: {', '.join(few[:20]) or '-'}"
        raise DatasetAnnotationsInvalid(file=images.dataset, problem=problem)


def cache_key(*parts: object) -> str:
    """A file name that identifies the parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _labelled(records: Sequence[Record], pack: Path) -> list[Sample]:
    samples: list[Sample] = []
    for record in records:
        labels = set(record.labels)
        if len(labels) == 1:
            samples.append(Sample(record, pack, labels.pop()))
    return samples
