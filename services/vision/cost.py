"""What it costs to decode an image, read from its header before any pixel is decoded.

Untrusted bytes are parsed in Python here: every loop is bounded, and a header that makes no sense costs nothing, as it
does not decode either. Whether an estimate is enough is for the decoding process's own limit to decide.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from services.vision.decode import SCALED_SIDE, STRIP_PIXELS, shrunk

MAX_ENTRIES = 10_000  # segments, chunks, blocks or tags that are read before the image's size must have come
MANY = 1 << 62  # scans of a file that has more segments than that

_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's frame headers
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # with a length, or the end
_FINISHED = 2 * 3  # bytes of a finished pixel, here and in the memory that the service reads
_STORED = 4  # bytes of a pixel in Pillow, at most
_STRIP = 10  # bytes for each pixel of a strip that is converted
_STRIP_CONVERTED = 18
_LOW_BYTES = 13  # of a pixel of 16-bit colours: the low bytes, and bands
_REENCODED = 7  # bytes for each finished pixel: another copy in Pillow, and the file


@dataclass(frozen=True, slots=True)
class Cost:
    """The size that the header states, the times that its data is passed over, and the memory that decoding takes.

    `loading_bytes` is what the decoder itself holds while it reads, `kept_bytes` what it holds until the end.
    """

    width: int = 0
    height: int = 0
    scans: int = 1
    converted: bool = True  # pixels are copied on the way to RGB
    loading_bytes: int = 0
    kept_bytes: int = 0
    shrinks: bool = False  # a JPEG can be decoded smaller

    @property
    def pixels(self) -> int:
        """Of the image as stored."""
        return self.width * self.height

    def peak_bytes(self, at_least: int | None = None, *, reencoded: bool = False) -> int:
        """The most memory that decoding takes at any time, as `decode` does it."""
        smaller = shrunk(self.width, self.height, at_least) if at_least is not None and self.shrinks else 1
        stored = -(-self.width // smaller) * -(-self.height // smaller)
        longer = max(self.width, self.height, 1)
        finished = int(stored * min(1.0, SCALED_SIDE / longer) ** 2)
        strip = min(stored, STRIP_PIXELS) * (_STRIP_CONVERTED if self.converted else _STRIP)
        loading = _STORED * stored + self.loading_bytes
        converting = _STORED * stored + self.kept_bytes + strip + _FINISHED * finished
        encoding = (_FINISHED + _REENCODED) * finished if reencoded else 0
        return max(loading, converting, encoding)


def cost_of(data: bytes, max_scans: int = MANY) -> Cost:
    """The cost of decoding the file; scans are counted up to one more than `max_scans`."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data, max_scans)
        if data.startswith(b"\x89PNG"):
            return _png(data)
        if data.startswith(b"GIF8"):
            return _gif(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith(b"RIFF"):
            return _webp(data)
        if data[:2] in (b"II", b"MM"):
            return _tiff(data)
    except (struct.error, IndexError, OverflowError):  # cut off, or it points far beyond its end
        pass
    return Cost()


def _jpeg(data: bytes, max_scans: int) -> Cost:
    width, height, coefficients, together, converted = 0, 0, 0, 0, False
    for marker, place in _segments(data, 2):
        if marker in _SIZES:
            height, width, components = struct.unpack_from(">HHB", data, place + 3)
            factors = [divmod(data[place + 9 + 3 * number], 16) for number in range(components)]
            across, down = (max((pair[axis] for pair in factors), default=1) or 1 for axis in (0, 1))
            samples = sum(right * below for right, below in factors) / (across * down)
            coefficients = int(2 * samples * width * height)
            converted = components != 3  # grey or CMYK
            together = components if marker in (0xC0, 0xC1) else -1  # a progressive image never has a single scan
        elif marker == 0xDA:
            if data[place + 2] == together:
                return Cost(width, height, converted=converted, shrinks=True)
            scans = _scans(data, place, max_scans)
            return Cost(width, height, scans, converted=converted, loading_bytes=coefficients, shrinks=True)
    return Cost(width, height, converted=False)


def _scans(data: bytes, first: int, max_scans: int) -> int:
    """The scans from the first one's header on, up to the end of the image or one too many."""
    count, place, entries = 1, first + struct.unpack_from(">H", data, first)[0], 0
    while count <= max_scans and (found := _MARKER.search(data, place)):
        marker = found[1][0]
        if marker == 0xD9 or found.end() + 2 > len(data):
            break
        entries += 1
        if entries > MAX_ENTRIES:
            return MANY
        count += marker == 0xDA
        place = found.end() + struct.unpack_from(">H", data, found.end())[0]
    return count


def _segments(data: bytes, place: int) -> Iterator[tuple[int, int]]:
    """Each JPEG marker with a length, and the place of that length; no more than MAX_ENTRIES."""
    for _ in range(MAX_ENTRIES):
        found = _MARKER.search(data, place)
        if not found:
            return
        yield found[1][0], found.end()
        place = found.end() + struct.unpack_from(">H", data, found.end())[0]


def _png(data: bytes) -> Cost:
    width, height, bits, colours = struct.unpack_from(">IIBB", data, 16)
    plain = (bits, colours) == (8, 2) and b"tRNS" not in data[:4096]
    return Cost(width, height, converted=not plain, loading_bytes=_low_bytes(width, height, bits, colours > 0))


def _low_bytes(width: int, height: int, bits: int, colours: bool) -> int:
    """What Pillow holds beside 16-bit colours while they are stretched: the image's low bytes, and bands of both."""
    return _LOW_BYTES * width * height if bits == 16 and colours else 0


def _gif(data: bytes) -> Cost:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    within = False  # an extension
    for _ in range(MAX_ENTRIES):
        mark = data[place]
        if within:
            place, within = place + 1 + mark, mark > 0
        elif mark == 0x2C:  # the first frame, which may be larger than the canvas
            left, top, across, down = struct.unpack_from("<HHHH", data, place + 1)
            return Cost(max(width, left + across), max(height, top + down))
        else:
            place, within = place + (2 if mark == 0x21 else 1), mark == 0x21
    return Cost(width, height)


def _bmp(data: bytes) -> Cost:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return Cost(width, height, converted=False)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)
    return Cost(width, height, loading_bytes=4 * width * height if compression in (1, 2) else 0)


def _webp(data: bytes) -> Cost:
    kind, place = data[12:16], 20
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, place + 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, place + 6))
    # libwebp holds two canvases to the end; while Pillow reads, also a frame of ARGB or a copy of the pixels.
    return Cost(width, height, loading_bytes=13 * width * height, kept_bytes=8 * width * height)


def _tiff(data: bytes) -> Cost:
    tags = _tiff_tags(data)
    width, height = tags.get(256, 0), tags.get(257, 0)
    samples = max(1, min(tags.get(258, 16), 64) // 8) * max(1, min(tags.get(277, 1), 16))
    strip = width * min(tags.get(278, height), height)
    tile = tags.get(322, 0) * tags.get(323, 0)
    turned = _STORED * width * height if tags.get(274, 1) != 1 else 0
    low = _low_bytes(width, height, tags.get(258, 16), tags.get(277, 1) > 1)
    # A strip or tile is decoded as a whole: once as its samples, and once as RGBA if libtiff converts it.
    return Cost(width, height, loading_bytes=max(strip, tile) * (samples + _STORED) + turned + low)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Each tag in the first directory that has one value, a whole number."""
    order = "<" if data[:2] == b"II" else ">"
    big = 0x2B in data[2:4]
    offset_format, count_format, entry_format, entry_bytes = ("Q", "Q", "HHQ", 20) if big else ("I", "H", "HHI", 12)
    (place,) = struct.unpack_from(order + offset_format, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_format, data, place)
    place += struct.calcsize(order + count_format)
    tags: dict[int, int] = {}
    for number in range(min(count, MAX_ENTRIES)):
        tag, kind, values = struct.unpack_from(order + entry_format, data, place + number * entry_bytes)
        if values == 1 and (code := {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)):
            value = place + number * entry_bytes + (12 if big else 8)
            (tags[tag],) = struct.unpack_from(order + code, data, value)
    return tags
