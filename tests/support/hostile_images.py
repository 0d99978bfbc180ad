"""Small files that cost much to decode, each for another reason; `make attack` uses them too."""

import struct
import zlib
from io import BytesIO

from PIL import Image


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The image as a file."""
    out = BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until it has so many."""
    data = encoded(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    first, last, end = data.index(b"\xff\xda"), data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    present = data.count(b"\xff\xda", first)
    return data[:end] + data[last:end] * (scans - present) + data[end:]


def progressive_giant(side: int) -> bytes:
    """A progressive JPEG without subsampling: its coefficients take more than its pixels."""
    return encoded(Image.new("RGB", (side, side), (200, 30, 30)), "JPEG", progressive=True, subsampling=0)


def tiff_of_one_strip(side: int) -> bytes:
    """A compressed TIFF whose only strip is the whole image."""
    body = zlib.compress(bytes(3 * side) * side, 1)
    tags = [
        *((256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 2)),
        *((273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, side), (279, 4, 1, len(body)), (284, 3, 1, 1)),
    ]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, count) + struct.pack("<HH" if kind == 3 else "<I", *([value, 0][: 5 - kind]))
        for tag, kind, count, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def rle_bitmap(side: int) -> bytes:
    """A run-length-encoded BMP, which Pillow decodes in Python."""
    line = b"\xff\x07" * (side // 255) + bytes((side % 255, 7)) + b"\0\0"
    body, palette = line * side + b"\0\1", bytes(1024)
    start = 54 + len(palette)
    head = struct.pack("<IHHI", start + len(body), 0, 0, start)
    return b"BM" + head + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0) + palette + body


def giants(side: int) -> dict[str, bytes]:
    """A file of every format and of every way to store pixels that takes memory of its own."""
    rgb, grey = Image.new("RGB", (side, side), (200, 30, 30)), Image.new("L", (side, side), 7)
    rgba = Image.new("RGBA", (side, side), (1, 2, 3, 128))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "JPEG": encoded(rgb, "JPEG"),
        "JPEG, turned": encoded(rgb, "JPEG", exif=turned),
        "JPEG, CMYK": encoded(rgb.convert("CMYK"), "JPEG"),
        "JPEG, progressive": progressive_giant(side),
        "JPEG, many scans": jpeg_of_scans(side, 12),
        "PNG": encoded(rgb, "PNG"),
        "PNG, alpha": encoded(rgba, "PNG"),
        "PNG, 16 bits": encoded(Image.new("I;16", (side, side), 700), "PNG"),
        "GIF": encoded(grey, "GIF"),
        "BMP": encoded(rgb, "BMP"),
        "BMP, run lengths": rle_bitmap(side),
        "WEBP": encoded(rgb, "WEBP", quality=20, method=0),
        "WEBP, lossless, alpha": encoded(rgba, "WEBP", lossless=True, method=0),
        "TIFF": encoded(rgb, "TIFF"),
        "TIFF, strips, alpha": encoded(rgba, "TIFF", compression="tiff_lzw"),
        "TIFF, one strip": tiff_of_one_strip(side),
        "TIFF, turned": encoded(rgb, "TIFF", compression="tiff_lzw", tiffinfo={274: 6}),
    }
