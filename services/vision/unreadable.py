"""Why a file cannot be read as an image, for the person who has to replace it.

Pillow's own errors do not say: `decoder error -2`, `cannot identify image file <_io.BytesIO object>`.
"""

import struct

from PIL import TiffImagePlugin

from services.vision.foreign import COPY, what_it_is
from sightline.images import libtiff
from sightline.images.faults import Unusable
from sightline.images.metadata import jpeg_segments
from sightline.images.tiff import Directory, directories
from sightline.plurals import counted

_BITS, _COMPRESSION, _BANDS, _SAMPLE_FORMAT = 258, 259, 277, 339  # TIFF tags
_SCAN = 0xDA  # JPEG marker
_SAMPLE_FORMATS = {2: "signed ", 3: "floating-point "}
_COMPRESSIONS = {
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy DNG",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
_CODINGS = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical"),
    0xF7: "lossless (JPEG-LS)",
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


def problem_of(data: bytes, fault: Exception) -> str:
    """What is wrong with the file, as a predicate without a full stop: `is cut off: ...`.

    `fault` is what Pillow raised when it opened or decoded the bytes.
    """
    if isinstance(fault, Unusable):
        return str(fault)
    kind = next((kind for mark, kind in _ACCEPTED if data.startswith(mark)), "")
    if not kind or (kind == "WEBP" and data[8:12] not in (b"WEBP", b"")):
        return what_it_is(data)
    tags = next(iter(directories(data)), None) if kind == "TIFF" else None
    if tags and (compression := _undecodable_compression(tags)):
        return f"is a TIFF with {compression} compression, which cannot be read; save it with LZW compression or none"
    if tags and (layout := _unusual_layout(tags)):
        return f"is a TIFF with {layout}, which is no picture; save it with 8 bits as grey or RGB"
    if kind == "JPEG" and (coding := _unusual_coding(data)):
        return f"is a {coding} JPEG, which cannot be read; save it as an ordinary one"
    ends_early = (
        (kind == "TIFF" and tags is None)
        or (kind == "WEBP" and _is_short(data))
        or (kind == "JPEG" and not any(segment.marker == _SCAN for segment in jpeg_segments(data)))
    )
    if ends_early or isinstance(fault, EOFError) or "truncated" in str(fault).lower():
        return f"is cut off: the end of the {kind} file is missing; {COPY}"
    return f"is damaged, or an unusual kind of {kind}, and cannot be decoded; {COPY}"


def _is_short(data: bytes) -> bool:
    """Whether a WEBP's header announces more bytes than there are, which Pillow does not say."""
    return len(data) < 12 or len(data) < 8 + int(struct.unpack_from("<I", data, 4)[0])


def _undecodable_compression(tags: Directory) -> str:
    """The compression of a TIFF's pixels if this build cannot decode it, else empty."""
    compression = (*tags.get(_COMPRESSION, ()), 1)[0]
    if compression in TiffImagePlugin.COMPRESSION_INFO and libtiff.decodes(compression):
        return ""
    return _COMPRESSIONS.get(compression, f"an unknown ({compression})")


def _unusual_layout(tags: Directory) -> str:
    """The bands and bits of a TIFF's samples if they are not those of a picture, else empty."""
    bands, bits, kind = ((*tags.get(tag, ()), 1)[0] for tag in (_BANDS, _BITS, _SAMPLE_FORMAT))
    if bands <= 4 and bits <= 16 and kind == 1:
        return ""
    return f"{counted(bands, 'band')} of {_SAMPLE_FORMATS.get(kind, '')}{bits}-bit samples"


def _unusual_coding(data: bytes) -> str:
    """How a JPEG is coded if Pillow cannot decode that, else empty."""
    for segment in jpeg_segments(data):
        if segment.marker in _CODINGS:
            return _CODINGS[segment.marker]
        if segment.marker in (0xC0, 0xC1, 0xC2):
            return f"{segment.body[0]}-bit" if segment.body[:1] > b"\x08" else ""
    return ""
