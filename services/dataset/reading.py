"""Reads a COCO file into columns, a block at a time; one that cannot be cut like this is read as a whole.

A section is cut between two of its objects, and each part is parsed as an array. If all parts are valid arrays, so is
the section, wherever it was cut. What remains of the file with its sections emptied is parsed last: only this shows
that they were COCO's sections, and not something nested or text that looks like them.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from services.dataset.coco import BLOCK_BYTES, CocoAnnotation, CocoCategory, CocoFile, CocoImage, parse
from services.dataset.columns import Columns, Drawn
from services.dataset.findings import FindingLog

MAX_BLOCKS = 16  # in memory, if there is nowhere to cut
_MARKERS = {"images": 1, "annotations": 2, "categories": 3}
_OPENING = re.compile(rb'"(images|annotations|categories)"[ \t\r\n]*:[ \t\r\n]*\[')
_OPENING_BYTES = 64  # a longer one is not recognised across two blocks
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)$")
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"

_images = msgspec.json.Decoder(list[CocoImage])
_drawn = msgspec.json.Decoder(list[Drawn])
_annotations = msgspec.json.Decoder(list[CocoAnnotation])
_categories = msgspec.json.Decoder(list[CocoCategory])


class Irregular(Exception):
    """The file has to be parsed as a whole, which also says what is wrong with it."""


class _Emptied(msgspec.Struct, frozen=True):
    """A file with a marker in place of each section's entries."""

    images: list[int]
    annotations: list[int] = []
    categories: list[int] = []


_emptied = msgspec.json.Decoder(_Emptied)


def read(path: Path, uri: str, log: FindingLog, *, boxes: bool) -> Columns | None:
    """The file's entries; None and a fatal finding that says where it is malformed."""
    with suppress(Irregular), path.open("rb") as source:
        return read_regular(source, boxes=boxes)
    file = parse(path.read_bytes(), uri, log)
    return None if file is None else columns_of(file, boxes=boxes)


def columns_of(file: CocoFile, *, boxes: bool) -> Columns:
    """The columns of a file that was parsed as a whole."""
    columns = Columns(boxes=boxes)
    columns.add_images(file.images)
    columns.add_annotations(file.annotations)
    columns.categories += file.categories
    return columns


def read_regular(source: BinaryIO, *, boxes: bool, block_bytes: int = BLOCK_BYTES) -> Columns:
    """The entries of a file whose sections are arrays of objects of the right types; Irregular for any other."""
    columns = Columns(boxes=boxes)

    def take_annotations(part: bytes) -> None:
        if boxes:
            with suppress(msgspec.ValidationError):
                columns.add_drawn(_drawn.decode(part))
                return
        columns.add_annotations(_annotations.decode(part))

    take: dict[str, Callable[[bytes], None]] = {
        "images": lambda part: columns.add_images(_images.decode(part)),
        "annotations": take_annotations,
        "categories": lambda part: columns.categories.extend(_categories.decode(part)),
    }
    splitter, emptied, seen = _Splitter(source, block_bytes), bytearray(), set[str]()
    try:
        while section := splitter.skip_to_section(emptied):
            if section in seen:
                raise Irregular
            seen.add(section)
            splitter.take_section(take[section])
            emptied += b"%d]" % _MARKERS[section]
        file = _emptied.decode(bytes(emptied.removeprefix(_BOM)))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Irregular from None
    if any(getattr(file, name) != [_MARKERS[name]] * (name in seen) for name in _MARKERS):
        raise Irregular
    return columns


class _Splitter:
    """Cuts the sections out of a file; its methods raise Irregular where they find no place to cut."""

    def __init__(self, source: BinaryIO, block_bytes: int) -> None:
        self._source = source
        self._block_bytes = block_bytes
        self._buffer = b""

    def skip_to_section(self, skipped: bytearray) -> str:
        """Moves behind the `[` of the next section and returns its name; "" at the end of the file."""
        start = 0
        while not (found := _OPENING.search(self._buffer, start)):
            start = max(0, len(self._buffer) - _OPENING_BYTES)
            if not self._read():
                skipped += self._buffer
                return ""
        skipped += self._buffer[: found.end()]
        self._buffer = self._buffer[found.end() :]
        return found[1].decode()

    def take_section(self, take: Callable[[bytes], None]) -> None:
        """Passes the section's entries on as one or more arrays, and moves behind its `]`."""
        while True:
            if len(self._buffer) < self._block_bytes:
                self._read()
            end, following = self._cut()
            part = b"[" + self._buffer[:end] + b"]" * (end < following)
            try:
                take(part)
                self._buffer = self._buffer[following:]
                if end == following:  # the section ends with the buffer
                    return
            except msgspec.ValidationError:
                raise Irregular from None
            except msgspec.DecodeError as error:
                if trailing := _TRAILING.search(str(error)):  # the section ends before the cut
                    size = int(trailing[1]) - 1  # they are counted from 1
                    take(part[:size])
                    self._buffer = self._buffer[size - 1 :]
                    return
                if not self._read():
                    raise Irregular from None

    def _read(self) -> bool:
        """Adds a block to the buffer; whether there was any."""
        if len(self._buffer) > MAX_BLOCKS * self._block_bytes:
            raise Irregular
        block = self._source.read(self._block_bytes)
        self._buffer += block
        return bool(block)

    def _cut(self) -> tuple[int, int]:
        """Where the last comma between two objects is, and where the second of them begins; else the end, twice."""
        following = len(self._buffer)
        while (following := self._buffer.rfind(b"{", 0, following)) > 0:
            before = self._buffer[max(0, following - _OPENING_BYTES) : following].rstrip(_SPACE)
            if before.endswith(b",") and before[:-1].rstrip(_SPACE).endswith(b"}"):
                end = self._buffer.rfind(b",", 0, following)
                return end, following
        return len(self._buffer), len(self._buffer)
