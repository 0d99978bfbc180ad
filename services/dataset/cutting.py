"""Cuts a COCO file into rows of work: every image with a usable path, and its usable annotations."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.dataset.coco import CocoImage, Place
from services.dataset.columns import Columns, Integers
from services.dataset.findings import FindingLog
from services.dataset.ids import Links
from services.dataset.rows import Rows
from services.kit.errors import UnreadableUri
from sightline.blob_keys import MAX_PART_BYTES

NAMES = 1000  # looked at together
_ORDINARY = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_. -/\n"
_BREAKS = bytes.maketrans(b"/.- ", b"\n\n\n\n")  # what no part of an ordinary path begins with
_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_. -]*/)*[A-Za-z0-9_][A-Za-z0-9_. -]*")


def cut(
    file: Columns, place: Place, links: Links, shift: int, sizes: tuple[int, int], log: FindingLog
) -> Iterator[Rows]:
    """The images by id, in one piece of the first size, then in pieces of the second; the last may be smaller."""
    order = file.ids.argsort(kind="stable")
    keys = _keys(file, place, order, log)
    usable = _usable(file, links, keys.refused, log)
    if keys.refused:
        order = order[~np.isin(order, keys.refused)]
    ranks = np.empty(len(file.ids), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    marks = usable[ranks[links.images[usable]].argsort(kind="stable")]
    counts = np.bincount(ranks[links.images[marks]], minlength=len(order))
    ends = counts.cumsum()
    start, first, (size, following) = 0, 0, sizes
    while start < len(order):
        stop = min(start + size, len(order))
        last = int(ends[stop - 1])
        images = order[start:stop]
        yield _piece(file, links, images, counts[start:stop], marks[first:last], keys, shift)
        start, first, size = stop, last, following


@dataclass(frozen=True, slots=True)
class _Keys:
    """Where the images are, by position in the file."""

    prefix: str  # of the key of every image that is in neither of the others, followed by its name
    keys: dict[int, str]
    refused: list[int]  # images without a usable path


def _piece(
    file: Columns, links: Links, images: Integers, counts: Integers, marks: Integers, keys: _Keys, shift: int
) -> Rows:
    listed, boxes = images.tolist(), file.has_boxes
    return Rows(
        shift,
        keys.prefix,
        [file.names[one] or _uri(file.located[one]) for one in listed],
        {n: keys.keys[one] for n, one in enumerate(listed) if one in keys.keys} if keys.keys else {},
        file.ids[images].astype("<i8").tobytes(),
        file.widths[images].astype("<f8").tobytes() if boxes else b"",
        file.heights[images].astype("<f8").tobytes() if boxes else b"",
        counts.astype("<i8").tobytes(),
        file.mark_ids[marks].astype("<i8").tobytes(),
        links.categories[marks].astype("<i8").tobytes(),
        file.boxes[marks].astype("<f8").tobytes() if boxes else b"",
        file.crowds[marks].tobytes() if boxes else b"",
    )


def _usable(file: Columns, links: Links, refused: list[int], log: FindingLog) -> Integers:
    """The annotations of usable images and known categories; a finding for each without the box that it needs."""
    usable = (links.images >= 0) & (links.categories >= 0)  # check_ids reported the others
    if file.has_boxes:
        without = usable & np.isnan(file.boxes[:, 0])
        for position in np.flatnonzero(without).tolist():
            image = int(links.images[position])
            where = file.names[image], int(file.ids[image]), file.mark_id(position)
            if position in file.faults:
                log.add("boxMalformed", *where, problem=file.faults[position])
            else:
                log.add("boxMissing", *where)
        usable &= ~without
    if refused:
        usable &= ~np.isin(links.images, refused)
    return np.flatnonzero(usable)


def _keys(file: Columns, place: Place, order: Integers, log: FindingLog) -> _Keys:
    """The images' keys; a finding for each that has none, and for uris that were ignored."""
    keys = _Keys(place.prefix_of_plain(), {}, [])
    foreign = 0
    for start in range(0, len(order), NAMES):
        positions = order[start : start + NAMES].tolist()
        if keys.prefix and not file.located and _are_plain([file.names[position] for position in positions]):
            continue  # nearly all are
        for position in positions:
            image = file.located.get(position) or CocoImage(int(file.ids[position]), file.names[position])
            if keys.prefix and position not in file.located and _is_plain(image.file_name):
                continue
            key = _locate(place, image, log)
            foreign += sum(1 for uri in (image.coco_url, image.absolute_url) if uri and not uri.startswith("s3://"))
            if key:
                keys.keys[position] = key
            else:
                keys.refused.append(position)
    if foreign:
        log.add("imageUriIgnored", place.uri, count=foreign)
    return keys


def _are_plain(names: Sequence[str]) -> bool:
    """Whether all are plain; False also if some only look as if they were not."""
    text = "\n".join(("", *names, "")).encode(errors="replace")
    return (
        not text.translate(None, _ORDINARY)
        and text.count(b"\n") == len(names) + 1
        and max(map(len, names), default=0) <= MAX_PART_BYTES
        and b"\n\n" not in text.translate(_BREAKS)
    )


def _is_plain(name: str) -> bool:
    """Whether it is a relative path of ordinary characters, no longer than a part of a key may be."""
    return len(name) <= MAX_PART_BYTES and _PLAIN.fullmatch(name) is not None


def _uri(image: CocoImage | None) -> str:
    return (image and (image.absolute_url or image.coco_url)) or ""


def _locate(place: Place, image: CocoImage, log: FindingLog) -> str:
    path = image.file_name or _uri(image)
    if not path:
        log.add("imagePathMissing", place.uri, image.id)
        return ""
    try:
        return place.locate(image)
    except UnreadableUri as error:
        path, problem = error.metadata["uri"], f"cannot be read: {error.metadata['problem']}"
    except ValueError as error:
        problem = str(error)
    log.add("imagePathInvalid", path, image.id, path=path, problem=problem)
    return ""
