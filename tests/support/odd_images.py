"""Image files that programs in the field write: with odd metadata, depths, bands and ends."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.hostile_images import encoded

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6  # colour types of a PNG


def photo(width: int = 160, height: int = 120) -> Image.Image:
    """Smooth colours that differ everywhere."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def chunk(kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    """A PNG's chunk."""
    check = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png_with(*chunks: bytes, before: bytes = b"IDAT", image: Image.Image | None = None) -> bytes:
    """A PNG with these chunks before its first IDAT or its IEND."""
    data = encoded(image or photo(), "PNG")
    place = data.index(before) - 4
    return data[:place] + b"".join(chunks) + data[place:]


def png_of(samples: NDArray[np.uint16], colour_type: int) -> bytes:
    """A PNG of 16-bit samples [height, width] or [height, width, bands]."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in samples.astype(">u2"))
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg_with(*segments: tuple[int, bytes], image: Image.Image | None = None, **options: object) -> bytes:
    """A JPEG with these segments (marker, body) after its first two bytes."""
    data = encoded(image or photo(), "JPEG", **options)
    return data[:2] + b"".join(segment(*one) for one in segments) + data[2:]


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG's segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def webp_with(*chunks: tuple[bytes, bytes], cut: int = 0) -> bytes:
    """A WebP with these chunks after its pixels, and without so many bytes of its end."""
    image = encoded(photo(), "WEBP", lossless=True)
    assert image[12:16] == b"VP8L"
    width, height = 160, 120
    flags = sum({b"EXIF": 0x08, b"XMP ": 0x04, b"ICCP": 0x20}[kind] for kind, _ in chunks)
    extended = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    pieces = [(b"VP8X", extended), (b"VP8L", image[20:]), *chunks]
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in pieces
    )
    whole = b"RIFF" + struct.pack("<I", len(body)) + body
    return whole[: len(whole) - cut]


Tag = tuple[int, int, Sequence[int]]  # number, type (3 short, 4 long, 1 byte), values


def tiff_of(directories: Sequence[Sequence[Tag]], pixels: Sequence[bytes], *, order: str = "<") -> bytes:
    """A TIFF with these directories, each a strip of its `pixels`; a tag 330 is filled in with the later ones' places.

    The first directory alone is in the chain if it has a tag 330; else each leads to the next.
    """
    codes = {1: "B", 3: "H", 4: "I"}
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    places: list[int] = []
    patches: list[tuple[int, int]] = []
    chained = not any(tag == 330 for tag, _, _ in directories[0])
    next_at = 4
    for tags, strip in zip(directories, pixels, strict=True):
        offset = len(data)
        data += strip + bytes(len(strip) % 2)
        entries = sorted([*tags, (273, 4, [offset]), (279, 4, [len(strip)])])
        encoded_entries, place = b"", 0
        extra: list[bytes] = []
        here = len(data)
        after = here + 2 + 12 * len(entries) + 4
        for tag, kind, values in entries:
            body = struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
            place = after + sum(map(len, extra))
            if tag == 330:
                patches.append((place if len(body) > 4 else here + 2 + len(encoded_entries) + 8, len(values)))
            if len(body) > 4:
                extra.append(body + bytes(len(body) % 2))
                body = struct.pack(f"{order}I", place)
            encoded_entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + body.ljust(4, b"\0")
        if chained or not places:
            struct.pack_into(f"{order}I", data, next_at, here)
        places.append(here)
        next_at = here + 2 + 12 * len(entries)
        data += struct.pack(f"{order}H", len(entries)) + encoded_entries + bytes(4) + b"".join(extra)
    for at, count in patches:
        struct.pack_into(f"{order}{count}I", data, at, *places[1 : count + 1])
    return bytes(data)


def tags_of(width: int, height: int, *, photometric: int, bits: Sequence[int], more: Sequence[Tag] = ()) -> list[Tag]:
    """The tags that every image of a TIFF has."""
    sides: list[Tag] = [(256, 4, [width]), (257, 4, [height]), (258, 3, list(bits)), (259, 3, [1])]
    return [*sides, (262, 3, [photometric]), (277, 3, [len(bits)]), (278, 4, [height]), *more]
