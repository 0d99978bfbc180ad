"""Rows of work: images to check, each with its annotations; stored as columns."""

from collections.abc import Iterator

import msgspec
import numpy as np

from services.dataset.boxes import Xywh
from services.dataset.columns import NONE


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An annotation as the worker of a chunk needs it; its box as in the file."""

    id: int | None
    category: int  # index into the snapshot's categories
    bbox: Xywh | None = None
    iscrowd: bool = False


class Row(msgspec.Struct, frozen=True, array_like=True):
    """An image to check."""

    snapshot_id: int  # unique over all files of the dataset, ascending
    id: int  # as in its file
    file: str  # the image, as its file names it
    key: str  # blob key
    width: float | None  # as declared
    height: float | None
    marks: list[Mark]


class Rows(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one file; numbers are arrays of 64 bits, little-endian, which take no time to write and read."""

    shift: int  # from ids in the file to those in the snapshot
    prefix: str  # of the keys that are not in `keys`; an image's name follows
    names: list[str]
    keys: dict[int, str]  # by position
    ids: bytes
    widths: bytes  # as declared, 0 if unknown; empty if the dataset has no boxes
    heights: bytes
    counts: bytes  # of annotations, for each image
    mark_ids: bytes
    categories: bytes
    boxes: bytes  # four numbers for each annotation; empty if the dataset has no boxes
    crowds: bytes  # a byte for each annotation; likewise

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Row]:
        marks = self._marks()
        unknown = [0.0] * len(self)
        sides = _real(self.widths) or unknown, _real(self.heights) or unknown
        numbers = zip(_whole(self.ids), *sides, _whole(self.counts), strict=True)
        start = 0
        for position, (id_, width, height, count) in enumerate(numbers):
            name = self.names[position]
            key = self.keys.get(position) or self.prefix + name
            own, start = marks[start : start + count], start + count
            yield Row(self.shift + id_, id_, name, key, width or None, height or None, own)

    def _marks(self) -> list[Mark]:
        ids = [None if id_ == NONE else id_ for id_ in _whole(self.mark_ids)]
        categories = _whole(self.categories)
        if not self.boxes:
            return list(map(Mark, ids, categories))
        numbers = iter(_real(self.boxes))
        boxes = zip(numbers, numbers, numbers, numbers, strict=True)
        return list(map(Mark, ids, categories, boxes, map(bool, self.crowds)))


def _whole(data: bytes) -> list[int]:
    return np.frombuffer(data, "<i8").tolist()


def _real(data: bytes) -> list[float]:
    return np.frombuffer(data, "<f8").tolist()
