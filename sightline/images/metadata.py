"""Image files without their metadata: text, colour profiles, previews, and what else no pixel depends on."""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from sightline.images import tiff

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"

_PNG_ONCE = {b"tRNS", b"eXIf", b"acTL"}  # ancillary, but they decide on pixels
_PNG_FRAMES = {b"fcTL", b"fdAT"}
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_WEBP_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}
_SOS = 0xDA
_MARKER = re.compile(rb"\xff([\x02-\xcf\xda-\xfe])")  # with a length
_MAX_SEGMENTS = 10_000


@dataclass(frozen=True, slots=True)
class Segment:
    """A JPEG marker: where it begins and ends in the file, and what it holds."""

    marker: int
    start: int
    end: int
    body: bytes


def without_metadata(data: bytes, *, bare: bool) -> tuple[bytes, list[str]] | None:
    """The file without its metadata, and the names of what was left out; None if there is nothing to leave out.

    Orientation, transparency and frames stay if they are sound; with `bare`, only what holds the pixels stays.
    """
    if data.startswith(PNG):
        kept, left_out = _png(data, bare)
    elif data.startswith(JPEG):
        kept, left_out = _jpeg(data, bare)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kept, left_out = _webp(data, bare)
    elif data.startswith(tiff.MARKS) and (rest := tiff.with_pixel_tags_only(data)):
        kept, left_out = rest, ["tags"]
    else:
        return None
    return (kept, list(dict.fromkeys(left_out))) if left_out else None


def _png(data: bytes, bare: bool) -> tuple[bytes, list[str]]:
    kept, left_out, place, seen = [PNG], list[str](), len(PNG), set[bytes]()
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if not kind.isalpha():
            break
        chunk = data[place : place + 12 + length]
        place += len(chunk)
        critical = not kind[0] & 0x20
        once = kind in _PNG_ONCE and kind not in seen and not (kind == b"tRNS" and b"IDAT" in seen)
        if critical or (not bare and (once or kind in _PNG_FRAMES) and _is_sound(chunk)):
            kept.append(chunk)
            seen.add(kind)
        else:
            left_out.append(kind.decode("ascii"))
        if kind == b"IEND":
            return b"".join(kept), left_out
    return b"".join((*kept, data[place:])), left_out


def _is_sound(chunk: bytes) -> bool:
    return len(chunk) >= 12 and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _jpeg(data: bytes, bare: bool) -> tuple[bytes, list[str]]:
    kept, left_out, rest = [data[:2]], list[str](), 2
    for segment in jpeg_segments(data):
        rest = segment.end
        if _is_jpeg_metadata(segment, bare):
            left_out.append("COM" if segment.marker == 0xFE else f"APP{segment.marker & 15}")
        else:
            kept.append(data[segment.start : segment.end])
    return b"".join((*kept, data[rest:])), left_out


def _is_jpeg_metadata(segment: Segment, bare: bool) -> bool:
    """Whether no pixel depends on it: JFIF and Adobe segments say which colours the components are."""
    if segment.marker == 0xE0 and segment.body.startswith(b"JFIF"):
        return len(segment.body) < 14
    if segment.marker == 0xEE and segment.body.startswith(b"Adobe"):
        return len(segment.body) < 12
    if segment.marker == 0xE1 and segment.body.startswith(b"Exif"):
        return bare
    return 0xE0 <= segment.marker <= 0xEF or segment.marker == 0xFE


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The segments before the first scan's data, that scan's header the last; ends where the file makes no sense."""
    place = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, place)
        if found is None:
            return
        marker, at = found[1][0], found.end()
        place = at + int.from_bytes(data[at : at + 2], "big")
        if place < at + 2 or place > len(data):
            return
        yield Segment(marker, found.start(), place, data[at + 2 : place])
        if marker == _SOS:
            return


def _webp(data: bytes, bare: bool) -> tuple[bytes, list[str]]:
    kept, left_out, place, flags = list[bytes](), list[str](), 12, 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        chunk = data[place : place + 8 + length + length % 2]
        place += len(chunk)
        whole = len(chunk) >= 8 + length
        if kind in _WEBP_PIXELS or (kind == b"EXIF" and whole and not bare):
            kept.append(chunk)
        else:
            left_out.append(kind.decode("ascii", "replace").strip())
            flags |= _WEBP_FLAGS.get(kind, 0)
    if kept and kept[0].startswith(b"VP8X") and len(kept[0]) > 8:
        kept[0] = kept[0][:8] + bytes([kept[0][8] & ~flags]) + kept[0][9:]
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, left_out
