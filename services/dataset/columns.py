"""A COCO file as columns: a number for each entry takes eight bytes instead of an object."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from math import nan

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.dataset.boxes import Xywh
from services.dataset.coco import CocoAnnotation, CocoCategory, CocoImage, Id, box_of

NONE = -1  # an id that is not given; ids are 0 or more
BATCH = 1 << 16  # boxes looked at together, so that intermediate arrays stay small
_NO_BOX: Xywh = (nan, nan, nan, nan)

Integers = NDArray[np.int64]
Positions = NDArray[np.int32]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Drawn(msgspec.Struct, frozen=True, gc=False):
    """An annotation whose box is four numbers or null, which is faster to read than any other."""

    image_id: Id
    id: Id | None = None
    category_id: Id | None = None
    bbox: Xywh | None = None
    iscrowd: int | bool | None = 0


class Columns:
    """The entries of a file, in its order; boxes, and the sides of images, only if the file is read for them."""

    def __init__(self, *, boxes: bool) -> None:
        self.has_boxes = boxes
        self.names: list[str] = []  # of images: file_name
        self.located: dict[int, CocoImage] = {}  # by position: images that have a uri
        self.categories: list[CocoCategory] = []
        self.faults: dict[int, str] = {}  # by position: annotations with a malformed box, and what is wrong with it
        self._ids, self._widths, self._heights = array("q"), array("d"), array("d")
        self._mark_ids, self._image_ids, self._category_ids = array("q"), array("q"), array("q")
        self._boxes, self._crowds = array("d"), array("b")

    def add_images(self, images: Sequence[CocoImage]) -> None:
        """Appends entries of `images`."""
        first = len(self.names)
        self._ids += array("q", [one.id for one in images])
        if self.has_boxes:
            self._widths += array("d", [one.width or 0.0 for one in images])
            self._heights += array("d", [one.height or 0.0 for one in images])
        self.names += [one.file_name for one in images]
        uris = [one.coco_url or one.absolute_url for one in images]
        if any(uris):
            self.located |= {first + n: images[n] for n, uri in enumerate(uris) if uri}

    def add_drawn(self, marks: Sequence[Drawn]) -> None:
        """Appends entries of `annotations` without malformed boxes."""
        self._add(marks, [one.bbox or _NO_BOX for one in marks])

    def add_annotations(self, marks: Sequence[CocoAnnotation]) -> None:
        """Appends entries of `annotations`; malformed boxes are noted."""
        boxes = [_NO_BOX] * len(marks)
        for position, mark in enumerate(marks) if self.has_boxes else ():
            box = box_of(mark)
            if isinstance(box, str):
                self.faults[len(self._image_ids) + position] = box
            elif box:
                boxes[position] = box
        self._add(marks, boxes)

    def _add(self, marks: Sequence[CocoAnnotation] | Sequence[Drawn], boxes: list[Xywh]) -> None:
        self._image_ids += array("q", [one.image_id for one in marks])
        self._mark_ids += array("q", [NONE if one.id is None else one.id for one in marks])
        self._category_ids += array("q", [NONE if one.category_id is None else one.category_id for one in marks])
        if self.has_boxes:
            self._crowds += array("b", [1 if one.iscrowd else 0 for one in marks])
            numbers = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(marks))
            self._boxes.frombytes(numbers.tobytes())

    @property
    def ids(self) -> Integers:
        """Of images."""
        return np.frombuffer(self._ids, np.int64)

    @property
    def widths(self) -> Floats:
        """Of images, as declared; 0 if unknown."""
        return np.frombuffer(self._widths, np.float64)

    @property
    def heights(self) -> Floats:
        """Of images, as declared; 0 if unknown."""
        return np.frombuffer(self._heights, np.float64)

    @property
    def mark_ids(self) -> Integers:
        """Of annotations; NONE where there is no id."""
        return np.frombuffer(self._mark_ids, np.int64)

    @property
    def image_ids(self) -> Integers:
        """Of annotations."""
        return np.frombuffer(self._image_ids, np.int64)

    @property
    def category_ids(self) -> Integers:
        """Of annotations; NONE where there is no id."""
        return np.frombuffer(self._category_ids, np.int64)

    @property
    def boxes(self) -> Floats:
        """[annotations, 4]; NaN where there is no box, or a malformed one."""
        return np.frombuffer(self._boxes, np.float64).reshape(-1, 4)

    @property
    def crowds(self) -> Mask:
        """Of annotations: iscrowd."""
        return np.frombuffer(self._crowds, np.bool_)

    def box_batches(self) -> Iterator[Floats]:
        """The boxes, some at a time."""
        boxes = self.boxes
        return (boxes[start : start + BATCH] for start in range(0, len(boxes), BATCH))

    def mark_id(self, position: int) -> int | None:
        """The id of an annotation."""
        return None if (id_ := self._mark_ids[position]) == NONE else id_


class Index:
    """Finds values among others; the first one, if there are several."""

    def __init__(self, values: Integers) -> None:
        ascending = bool((values[1:] > values[:-1]).all())
        self._order: Integers | None = None if ascending else values.argsort(kind="stable")
        self._sorted = values if self._order is None else values[self._order]
        self._dense = ascending and len(values) > 0 and int(values[-1]) - int(values[0]) == len(values) - 1

    def find(self, wanted: Integers) -> Integers:
        """The position of each wanted value; -1 if it is not there."""
        if not len(self._sorted):
            return np.full(len(wanted), -1)
        first, last = self._sorted[0], self._sorted[-1]
        if self._dense:
            return np.where((wanted >= first) & (wanted <= last), wanted - first, -1)
        found = np.searchsorted(self._sorted, wanted)
        np.minimum(found, len(self._sorted) - 1, out=found)
        absent = self._sorted[found] != wanted
        if self._order is not None:
            found = self._order[found]
        found[absent] = -1
        return found

    def repeated(self) -> Integers:
        """The positions of values that are also at an earlier position, ascending."""
        if self._order is None:
            return np.empty(0, np.int64)
        return np.sort(self._order[1:][self._sorted[1:] == self._sorted[:-1]])
