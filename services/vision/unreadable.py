"""Why a file cannot be read as an image, for the person who has to replace it.

Pillow's own errors do not say: `decoder error -2`, `cannot identify image file <_io.BytesIO object>`.
"""

import struct

from PIL import TiffImagePlugin

from sightline.images import libtiff
from sightline.images.upright import FORMATS, Unusable

_COPY = "replace it with an intact copy"
_CONVERT = f"convert it to one of {', '.join(FORMATS)}"
_COMPRESSION = 259  # TIFF tag
_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # per value of a TIFF type; 1 for the others
_COMPRESSIONS = {
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy DNG",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
_ACCEPTED = (  # how files of accepted formats begin; MPO begins like JPEG
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"RIFF", "WEBP"),
    (b"\0\0\1\0", "ICO"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_OTHERS = (  # offset, mark, what the file is
    *((4, b"ftyp" + brand, "a HEIC image") for brand in _HEIC),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyp", "a video"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (4, b"JXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (128, b"DICM", "a DICOM file"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
)
_TEXTS = (  # how text files begin, in lower case
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"),
    (b"<!doctype html", "a web page, not an image; download the image itself"),
    (b"<html", "a web page, not an image; download the image itself"),
    (b"<svg", f"an SVG drawing; {_CONVERT}"),
    (b"<?xml", f"an XML document or SVG drawing; {_CONVERT}"),
)


def problem_of(data: bytes, fault: Exception) -> str:
    """What is wrong with the file, as a predicate without a full stop: `is cut off: ...`.

    `fault` is what Pillow raised when it opened or decoded the bytes.
    """
    if isinstance(fault, Unusable):
        return str(fault)
    kind = next((kind for mark, kind in _ACCEPTED if data.startswith(mark)), "")
    if not kind:
        return _foreign(data)
    if kind == "TIFF" and (compression := _undecodable_compression(data)):
        return f"is a TIFF with {compression} compression, which cannot be read; save it with LZW compression or none"
    if _is_cut_off(kind, data) or isinstance(fault, EOFError) or "truncated" in str(fault).lower():
        return f"is cut off: the end of the {kind} file is missing; {_COPY}"
    if "MAX_TEXT" in str(fault):
        return "holds text or a colour profile of more than a megabyte; save it without metadata"
    return f"is damaged, or an unusual kind of {kind}, and cannot be decoded; {_COPY}"


def _foreign(data: bytes) -> str:
    """What a file is that does not begin like any accepted format."""
    if not data:
        return "is empty: it has 0 bytes; upload it again"
    if not data.strip(b"\0"):
        return f"contains only zeros; {_COPY}"
    for place, mark, what in _OTHERS:
        if data.startswith(mark, place):
            return f"is {what}; {_CONVERT}"
    beginning = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, what in _TEXTS:
        if beginning.startswith(mark):
            return f"is {what}"
    return f"is not in an accepted format; {_CONVERT}"


def _is_cut_off(kind: str, data: bytes) -> bool:
    """Whether the header announces more bytes than there are, for TIFF and WEBP, where Pillow does not say so."""
    if kind == "WEBP":
        return len(data) < 12 or len(data) < 8 + int(struct.unpack_from("<I", data, 4)[0])
    return kind == "TIFF" and _first_directory(data) is None


def _first_directory(data: bytes) -> dict[int, int] | None:
    """The first value of each 16-bit tag in a TIFF's first directory; None if the file ends before its values."""
    order = "<" if data.startswith(b"II") else ">"
    values: dict[int, int] = {}
    try:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, type_, length, offset = struct.unpack_from(f"{order}HHII", data, entry)
            size = length * _TYPE_BYTES.get(type_, 1)
            if size > 4 and offset + size > len(data):  # the values are elsewhere
                return None
            (values[tag],) = struct.unpack_from(f"{order}H", data, entry + 8)
    except struct.error:
        return None
    return values


def _undecodable_compression(data: bytes) -> str:
    """The compression of a TIFF's pixels if this build cannot decode it, else empty."""
    compression = (_first_directory(data) or {}).get(_COMPRESSION, 1)
    if compression in TiffImagePlugin.COMPRESSION_INFO and libtiff.decodes(compression):
        return ""
    return _COMPRESSIONS.get(compression, f"an unknown ({compression})")
