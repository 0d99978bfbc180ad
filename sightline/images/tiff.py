"""The directories of a TIFF file, as far as they tell what the file is."""

import struct
from collections.abc import Mapping

from sightline.images.faults import Unusable

SUBFILE_TYPE, WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, MAKE, SUB_DIRECTORIES = 254, 256, 257, 259, 262, 271, 330
DNG_VERSION = 50706
MARKS = (b"II*\0", b"MM\0*")

_MAX_DIRECTORIES = 32
_MAX_ENTRIES = 4_096  # of a directory
_MAX_VALUES = 32  # of a tag
_CODES = {1: "B", 3: "H", 4: "I", 13: "I"}  # of the types that hold whole numbers
_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # per value of a type; 1 for the others
_RAW_PHOTOMETRIC = {32_803: "a colour filter array", 34_892: "linear raw samples"}
_RAW_COMPRESSION = {32_767: "Sony", 32_770: "Samsung", 34_713: "Nikon", 65_000: "Kodak", 65_535: "Pentax"}
_PIXEL_TAGS = frozenset(  # what decoding needs, and the orientation
    {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 297, 317, 320, 322, 323, 324, 325}
    | {332, 336, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}
)

Directory = Mapping[int, tuple[int, ...]]


def refuse_camera_raw(data: bytes) -> None:
    """Unusable for a camera raw file, and for one whose first image is a thumbnail of a larger one."""
    if not data.startswith(MARKS):
        return
    if data[8:10] == b"CR":
        raise Unusable(_raw("CR2"))
    first, *others = found if (found := directories(data)) else ({},)
    if DNG_VERSION in first:
        raise Unusable(_raw("DNG"))
    for one in (first, *others):
        if _number(one, PHOTOMETRIC) in _RAW_PHOTOMETRIC or _number(one, COMPRESSION) in _RAW_COMPRESSION:
            raise Unusable(_raw("TIFF with sensor data, such as NEF or ARW"))
    size, largest = _size(first), max((_size(one) for one in others), key=_area, default=(0, 0))
    if _number(first, SUBFILE_TYPE) & 1 and _area(size) < _area(largest):
        what = (
            f"begins with a thumbnail of {size[0]} x {size[1]} pixels instead of its {largest[0]} x {largest[1]} image"
        )
        raise Unusable(f"{what}; save that image as a file of its own")


def _raw(kind: str) -> str:
    return f"is a camera raw file ({kind}); develop it with a raw converter and save it as JPEG or PNG"


def directories(data: bytes) -> list[Directory]:
    """The first directory, then the others as they are found, up to one that is cut off."""
    order = "<" if data[:2] == b"II" else ">"
    found: list[Directory] = []
    try:
        waiting = [*struct.unpack_from(f"{order}I", data, 4)]
        seen: set[int] = set()
        while waiting and len(found) < _MAX_DIRECTORIES:
            place = waiting.pop(0)
            if place in seen or place == 0:
                continue
            seen.add(place)
            tags, next_place = _directory(data, order, place)
            found.append(tags)
            waiting += [*tags.get(SUB_DIRECTORIES, ()), next_place]
    except struct.error:
        pass
    return found


def _directory(data: bytes, order: str, place: int) -> tuple[Directory, int]:
    """The tags with whole numbers, and where the next directory is; struct.error if it is cut off."""
    (count,) = struct.unpack_from(f"{order}H", data, place)
    tags: dict[int, tuple[int, ...]] = {}
    for number in range(min(count, _MAX_ENTRIES)):
        entry = place + 2 + 12 * number
        tag, type_, length = struct.unpack_from(f"{order}HHI", data, entry)
        size, at = length * _TYPE_BYTES.get(type_, 1), entry + 8
        if size > 4:  # the values are elsewhere
            (at,) = struct.unpack_from(f"{order}I", data, at)
        if at + size > len(data):
            raise struct.error("its values are cut off")
        code = _CODES.get(type_)
        tags[tag] = struct.unpack_from(f"{order}{min(length, _MAX_VALUES)}{code}", data, at) if code else ()
    end = place + 2 + 12 * count
    return tags, struct.unpack_from(f"{order}I", data, end)[0] if end + 4 <= len(data) else 0


def with_pixel_tags_only(data: bytes) -> bytes | None:
    """The file with a first directory that has only what decoding needs; None if it has nothing else, or is cut off."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, place)
    except struct.error:
        return None
    entries = [data[at : at + 12] for at in range(place + 2, place + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if len(entry) == 12 and struct.unpack(f"{order}H", entry[:2])[0] in _PIXEL_TAGS]
    if len(kept) == count:
        return None
    padding = bytes(len(data) % 2)
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:4] + struct.pack(f"{order}I", len(data) + len(padding)) + data[8:] + padding + directory


def _number(tags: Directory, tag: int) -> int:
    values = tags.get(tag, ())
    return values[0] if values else 0


def _size(tags: Directory) -> tuple[int, int]:
    return _number(tags, WIDTH), _number(tags, HEIGHT)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
