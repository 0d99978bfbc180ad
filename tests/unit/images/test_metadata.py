"""Metadata makes no image unreadable, changes no pixel, and what was ignored of it is said."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.kit.errors import InvalidImageFormat
from services.vision.decode import decode, inspect, read
from services.vision.repack import encode_for_pack
from sightline.images.metadata import jpeg_segments
from sightline.images.upright import upright
from tests.support.hostile_images import encoded
from tests.support.odd_images import chunk, jpeg_with, photo, png_with, segment, tags_of, tiff_of, webp_with

MEGABYTES = zlib.compress(bytes(2_000_000))
TEXT = b"note\0\0" + MEGABYTES
PROFILE = b"ICC\0\0" + MEGABYTES
PROFILES = [(0xE2, b"ICC_PROFILE\0" + bytes([number, 9]) + os.urandom(60_000)) for number in range(1, 10)]
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6

PNGS = {
    "a large zTXt": png_with(chunk(b"zTXt", TEXT)),
    "a large iTXt": png_with(chunk(b"iTXt", b"note\0\1\0\0\0" + MEGABYTES)),
    "a large iTXt after the pixels": png_with(chunk(b"iTXt", b"note\0\1\0\0\0" + MEGABYTES), before=b"IEND"),
    "70 MB of text": png_with(*[chunk(b"tEXt", b"note\0" + bytes(1_000_000)) for _ in range(70)]),
    "a large ICC profile": png_with(chunk(b"iCCP", PROFILE)),
    "an ICC profile compressed in an unknown way": png_with(chunk(b"iCCP", b"ICC\0\x07" + MEGABYTES)),
    "an ICC profile without a name": png_with(chunk(b"iCCP", b"ICC")),
    "a wrong CRC in text": png_with(chunk(b"tEXt", b"note\0hello", crc=1)),
    "a wrong CRC in a gamma": png_with(chunk(b"gAMA", struct.pack(">I", 45_455), crc=1)),
    "a gamma without a value": png_with(chunk(b"gAMA", b"")),
    "chromaticities cut short": png_with(chunk(b"cHRM", b"\0\0\0")),
    "a rendering intent without a value": png_with(chunk(b"sRGB", b"")),
    "a resolution cut short": png_with(chunk(b"pHYs", b"\0")),
    "a transparent colour cut short": png_with(chunk(b"tRNS", b"\0")),
    "an animation of no frames": png_with(chunk(b"acTL", bytes(4))),
    "text that is cut off": png_with(chunk(b"tEXt", b"note\0" + b"x" * 90), before=b"IEND")[:-60],
}
JPEGS = {
    "a JFIF segment cut short": jpeg_with((0xE0, b"JFIF\0")),
    "an Adobe segment cut short": jpeg_with((0xEE, b"Adobe")),
    "a profile without numbers": jpeg_with((0xE2, b"ICC_PROFILE\0")),
    "an empty Exif segment": jpeg_with((0xE1, b"Exif\0\0")),
}


@pytest.mark.parametrize("name", [*PNGS, *JPEGS])
def test_odd_metadata_makes_no_image_unreadable(tmp_path: Path, name: str) -> None:
    data, plain = (PNGS[name], encoded(photo(), "PNG")) if name in PNGS else (JPEGS[name], encoded(photo(), "JPEG"))
    file = tmp_path / "image"
    file.write_bytes(data)
    assert (inspect(data).width, inspect(data).height) == (160, 120)
    np.testing.assert_array_equal(decode(data), decode(plain))
    np.testing.assert_array_equal(np.asarray(upright(file)), decode(plain))


@pytest.mark.parametrize("name", PNGS)
def test_what_was_ignored_is_said_and_the_packed_image_is_one_that_every_decoder_reads(name: str) -> None:
    data = PNGS[name]
    (note,) = read(data).notes
    assert note.code == "imageMetadataIgnored"
    kind = next(
        kind
        for kind in ("zTXt", "iTXt", "tEXt", "iCCP", "gAMA", "cHRM", "sRGB", "pHYs", "tRNS", "acTL")
        if kind.encode() in data
    )
    assert note.words == {"parts": kind}
    packed = encode_for_pack(data, inspect(data))
    assert packed.reencoded
    assert note in packed.notes
    with Image.open(BytesIO(packed.data)) as image:
        np.testing.assert_array_equal(np.asarray(image), decode(encoded(photo(), "PNG")))


def test_metadata_of_any_size_in_a_jpeg_is_skipped() -> None:
    plain = decode(encoded(photo(), "JPEG"))
    for segments in (PROFILES, [(0xFE, bytes(65_533))] * 30, [(0xED, b"Photoshop 3.0\0" + os.urandom(60_000))] * 20):
        reading = read(jpeg_with(*segments))
        assert reading.notes == ()
        np.testing.assert_array_equal(reading.pixels, plain)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0nonsense", EXIF[:20], EXIF[:-20], b"Exif\0\0" + os.urandom(900)]
)
def test_a_broken_exif_is_ignored(exif: bytes) -> None:
    np.testing.assert_array_equal(decode(jpeg_with((0xE1, exif))), decode(encoded(photo(), "JPEG")))
    np.testing.assert_array_equal(decode(png_with(chunk(b"eXIf", exif[6:]))), decode(encoded(photo(), "PNG")))


def test_an_exif_that_is_none_and_an_orientation_that_does_not_exist_are_said() -> None:
    assert [note.code for note in read(jpeg_with((0xE1, b"Exif\0\0nonsense"))).notes] == ["imageMetadataIgnored"]
    (note,) = read(jpeg_with((0xE1, EXIF.replace(b"\x06\0\0\0\0\0", b"\x2a\0\0\0\0\0")))).notes
    assert (note.code, note.words) == ("imageOrientationInvalid", {"value": "42"})


def test_the_orientation_counts_although_other_metadata_is_ignored() -> None:
    upside = decode(encoded(photo(), "PNG"))
    data = png_with(chunk(b"eXIf", EXIF[6:]), chunk(b"zTXt", TEXT))
    assert inspect(data).orientation == 6
    np.testing.assert_array_equal(decode(data), np.rot90(upside, -1))
    data = jpeg_with((0xE1, EXIF), (0xEE, b"Adobe"))
    assert (inspect(data).orientation, inspect(data).width) == (6, 120)


def test_transparency_counts_although_other_metadata_is_ignored() -> None:
    image = photo().convert("P")
    opaque, clear = encoded(image, "PNG"), encoded(image, "PNG", transparency=bytes([128] * 256))
    data = clear.replace(b"IDAT", b"IDAT", 1)
    place = data.index(b"IDAT") - 4
    data = data[:place] + chunk(b"zTXt", TEXT) + data[place:]
    np.testing.assert_array_equal(decode(data), decode(clear))
    assert not np.array_equal(decode(clear), decode(opaque))


def test_a_duplicate_or_misplaced_chunk_changes_nothing() -> None:
    plain = decode(encoded(photo(), "PNG"))
    gamma = chunk(b"gAMA", struct.pack(">I", 45_455))
    for data in (
        png_with(gamma, gamma),
        png_with(gamma, before=b"IEND"),
        png_with(chunk(b"tIME", bytes(7)), before=b"IEND"),
    ):
        np.testing.assert_array_equal(decode(data), plain)


def test_damaged_metadata_of_a_webp_is_ignored() -> None:
    plain = decode(encoded(photo(), "WEBP", lossless=True))
    whole = webp_with((b"EXIF", EXIF), (b"XMP ", bytes(3_000)))
    assert inspect(whole).orientation == 6
    cut = webp_with((b"EXIF", EXIF), (b"XMP ", bytes(3_000)), cut=1_000)
    np.testing.assert_array_equal(decode(cut), np.rot90(plain, -1))
    assert read(cut).notes[-1].words == {"parts": "XMP"}
    np.testing.assert_array_equal(decode(webp_with((b"EXIF", EXIF), cut=10)), plain)


def test_damaged_metadata_of_a_tiff_is_ignored() -> None:
    pixels = np.asarray(photo())
    huge = [(34_675, 1, bytes(3_000_000)), (305, 1, bytes(9)), (274, 3, [3])]
    for order in "<>":
        tags = tags_of(160, 120, photometric=2, bits=(8, 8, 8), more=huge)
        data = tiff_of([tags], [pixels.tobytes()], order=order)
        np.testing.assert_array_equal(decode(data), pixels[::-1, ::-1])
        beyond = bytearray(data)
        entry = data.index(struct.pack(f"{order}HH", 34_675, 1))
        struct.pack_into(f"{order}II", beyond, entry + 4, 1 << 30, 1 << 30)
        np.testing.assert_array_equal(decode(bytes(beyond)), pixels[::-1, ::-1])


def test_damage_to_what_holds_the_pixels_is_still_an_error() -> None:
    plain = encoded(photo(), "PNG")
    header = plain.index(b"IHDR")
    wrong_check = plain[: header + 18] + b"\0" + plain[header + 19 :]
    half = png_with(chunk(b"zTXt", TEXT))[:-2_000]
    wrong_pixels = bytearray(png_with(chunk(b"zTXt", TEXT)))
    wrong_pixels[-3_000:-2_000] = bytes(1_000)
    for data in (wrong_check, half, bytes(wrong_pixels), encoded(photo(), "JPEG")[:-2_000] + segment(0xFE, b"end")):
        with pytest.raises(InvalidImageFormat):
            decode(data)


def test_pixels_of_ordinary_files_are_those_that_pillow_decodes() -> None:
    for form, options in (("JPEG", {"quality": 90}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})):
        data = encoded(photo(), form, **options)
        with Image.open(BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        reading = read(data)
        np.testing.assert_array_equal(reading.pixels, expected)
        assert (reading.data is data, reading.notes, reading.as_elsewhere) == (True, (), True)


def test_a_file_of_nothing_but_segments_or_fill_bytes_is_given_up_soon() -> None:
    """Each was gone through in Python, byte by byte: 20 MB took minutes."""
    for data in (b"\xff\xd8" + b"\xff" * 3_000_000, b"\xff\xd8\xff" + b"\xfe\0\2\xff" * 300_000):
        assert len(list(jpeg_segments(data))) <= 10_000
