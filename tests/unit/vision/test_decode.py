"""Every way to store an image, and the one array that must come out."""

import contextlib
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from services.kit.errors import InvalidImage, InvalidImageFormat, InvalidImageSize
from services.vision import decode as decode_module
from services.vision.decode import decode, decode_sizes, inspect
from services.vision.repack import encode_for_pack
from sightline.images.upright import FORMATS

T = Image.Transpose
# How a camera stores an upright image for each EXIF orientation: the inverse of what a viewer must do.
STORED = {
    1: None,
    2: T.FLIP_LEFT_RIGHT,
    3: T.ROTATE_180,
    4: T.FLIP_TOP_BOTTOM,
    5: T.TRANSPOSE,
    6: T.ROTATE_90,
    7: T.TRANSVERSE,
    8: T.ROTATE_270,
}


def sample_image(width: int = 96, height: int = 128) -> Image.Image:
    """Blocks of 16 pixels in colours that differ everywhere, so that every rotation is visible."""
    colours = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def turned(orientation: int, format_: str, **options: Any) -> bytes:
    transpose = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = sample_image() if transpose is None else sample_image().transpose(transpose)
    return encoded(image, format_, exif=exif, **options)


def png_claiming(width: int, height: int, data: bytes = b"", colour_type: int = 2) -> bytes:
    """A PNG of the header's size with the rows `data`, by default too few."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0))
    rows = chunk(b"IDAT", data or zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_the_eight_exif_orientations_give_the_same_pixels(format_: str, options: dict[str, Any]) -> None:
    for orientation in range(1, 9):
        data = turned(orientation, format_, **options)
        info = inspect(data)
        assert (info.orientation, info.width, info.height) == (orientation, 96, 128)
        assert (info.stored_width, info.stored_height) == ((128, 96) if orientation >= 5 else (96, 128))
        np.testing.assert_array_equal(decode(data), pixels_of(sample_image()), err_msg=f"orientation {orientation}")


def test_the_eight_exif_orientations_of_a_jpeg_agree() -> None:
    for orientation in range(1, 9):
        pixels = decode(turned(orientation, "JPEG", quality=95, subsampling=0))
        difference = np.abs(pixels.astype(int) - pixels_of(sample_image()).astype(int))
        assert difference.mean() < 4, f"orientation {orientation}"


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(sample_image(), "PNG", exif=exif)
    assert inspect(data).orientation == 1
    np.testing.assert_array_equal(decode(data), pixels_of(sample_image()))


def test_each_of_the_eight_formats_is_recognised_and_decoded() -> None:
    assert len(FORMATS) == 8
    for format_ in FORMATS:
        options: dict[str, Any] = {
            "MPO": {"save_all": True, "append_images": [sample_image()]},
            "ICO": {"sizes": [(96, 128)]},
        }.get(format_, {})
        data = encoded(sample_image(), format_, **options)
        assert inspect(data).format == format_
        assert decode(data).shape == (128, 96, 3), format_


@pytest.mark.parametrize("format_", ["PPM", "TGA", "SGI"])
def test_another_format_is_refused_by_name(format_: str) -> None:
    with pytest.raises(InvalidImageFormat, match="JPEG, PNG, GIF") as caught:
        inspect(encoded(sample_image(), format_), "a/b.img")
    assert caught.value.metadata["file"] == "a/b.img"
    assert caught.value.reason == "InvalidImageFormat"


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\1\0", b"\0\0\1\0\1\0", b"GIF89a", b"\xff\xd8\xff", b"II*\0", b"not an image"]
)
def test_bytes_that_are_not_an_image_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidImageFormat):
        decode(data)


def test_an_image_smaller_than_50_pixels_is_refused_with_its_size() -> None:
    with pytest.raises(InvalidImageSize, match="40 x 40") as caught:
        inspect(encoded(Image.new("RGB", (40, 40)), "PNG"))
    assert caught.value.reason == "InvalidImageSize"
    with pytest.raises(InvalidImageSize):
        inspect(encoded(Image.new("RGB", (49, 200)), "PNG"))
    assert inspect(encoded(Image.new("RGB", (50, 50)), "PNG")).width == 50


def test_a_side_above_16000_is_refused_before_decoding() -> None:
    for width, height in ((16_001, 60), (60, 16_001), (2_000_000_000, 2_000_000_000)):
        data = png_claiming(width, height)
        with pytest.raises((InvalidImageSize, InvalidImageFormat)):
            inspect(data)
        with pytest.raises((InvalidImageSize, InvalidImageFormat)):
            decode(data)


def test_a_header_of_15000_pixels_per_side_passes_inspection_and_missing_pixels_are_reported() -> None:
    data = png_claiming(15_000, 15_000)
    assert inspect(data).width == 15_000
    with pytest.raises(InvalidImageFormat) as caught:
        decode(data)
    assert caught.value.__cause__ is not None


def test_inspection_decodes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    # An icon is decoded when it is opened (and is small); a WEBP's decoder sees the header only.
    files = [encoded(sample_image(), format_) for format_ in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")]
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    for data in files:
        assert inspect(data).width == 96


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_a_truncated_file_is_refused_with_its_cause(format_: str) -> None:
    data = encoded(sample_image(480, 480), format_)
    with pytest.raises(InvalidImageFormat) as caught:
        decode(data[: len(data) // 2], name="half")
    assert caught.value.__cause__ is not None
    assert str(caught.value).startswith("half: is cut off: the end of the ")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_every_truncation_is_reported_as_cut_off(format_: str) -> None:
    data = encoded(sample_image(480, 480), format_)
    for twentieth in range(1, 18):  # a JPEG may lack a tenth
        with pytest.raises(InvalidImageFormat, match=r"^image: is cut off"):
            decode(data[: len(data) * twentieth // 20])


def damaged_tiff(compression: str) -> bytes:
    """A TIFF whose strips cannot be unpacked."""
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    data = bytearray(encoded(noise, "TIFF", compression=compression))
    data[2000:2400] = bytes(byte ^ 0xFF for byte in data[2000:2400])
    return bytes(data)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_damaged_tiff_is_refused_with_our_error_and_libtiff_prints_nothing(
    compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidImageFormat) as caught:
        decode(damaged_tiff(compression), name="a.tif")
    assert str(caught.value).startswith("a.tif: is damaged, or an unusual kind of TIFF")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("number", "name"), [(34712, "JPEG 2000"), (34887, "LERC"), (12345, "an unknown (12345)")])
def test_an_undecodable_tiff_compression_is_named(number: int, name: str) -> None:
    data = bytearray(encoded(sample_image(), "TIFF", compression="tiff_lzw"))
    tag = struct.pack("<HHII", 259, 3, 1, 5)  # compression: one short, 5 is LZW
    assert data.count(tag) == 1
    data = data.replace(tag, struct.pack("<HHII", 259, 3, 1, number))
    with pytest.raises(InvalidImageFormat, match=rf"is a TIFF with {re.escape(name)} compression"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty: it has 0 bytes"),
        (bytes(9_000), "contains only zeros"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC image; convert it"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "is an AVIF image; convert it"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "is an AVIF image; convert it"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "is a video; save a single frame"),
        (b"RIFF\x10\0\0\0AVI LIST", "is a video; save a single frame"),
        (b"\x1aE\xdf\xa3\1\0\0\0\0\0\0\x1f", "is a video; save a single frame"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 image; convert it"),
        (b"8BPS\0\1", "is a Photoshop document; convert it"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing; convert it"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "is an XML document, not an image"),
        (b"<!-- proxy --><html><body>Sign in</body></html>", "is a web page, not an image"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "is what macOS stores beside a file"),
        (b"data:image/png;base64,iVBORw0KGgo", "is text with an image in Base64"),
        (b"PK\3\4\x14\0", "is a ZIP archive; extract it"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x40\0\x40\1\1\x11\0", "is a lossless (JPEG-LS) JPEG, which cannot be read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL image; convert it"),
        (b"%PDF-1.7\n", "is a PDF document; convert it"),
        (b"\n<!DOCTYPE html><html><title>404</title>", "is a web page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b'{"error": "not found"}', "is text, not an image; replace it"),
        (b"\x01\x02\x03\x04 and so on", "is not in an accepted format; convert it to one of JPEG, PNG"),
    ],
)
def test_a_file_that_is_not_an_image_is_named_for_what_it_is(data: bytes, words: str) -> None:
    with pytest.raises(InvalidImageFormat) as caught:
        decode(data, name="a.jpg")
    assert str(caught.value).startswith(f"a.jpg: {words}")


@pytest.mark.parametrize(
    "copied",
    [
        lambda png: png.replace(b"\r\n", b"\n"),
        lambda png: png.replace(b"\r", b"\n"),
        lambda png: png.replace(b"\n", b"\r\n"),
        lambda png: re.sub(b"(?<!\r)\n", b"\r\n", png),
        lambda png: png.decode("utf-8", "replace").encode(),
        lambda png: png.decode("latin-1").encode(),
        lambda png: bytes(byte & 127 for byte in png),
    ],
)
def test_a_png_that_was_copied_as_text_is_named(copied: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidImageFormat, match=r"is a PNG that was copied as text.*; copy the original again"):
        decode(copied(encoded(sample_image(), "PNG")))


def test_every_problem_reads_as_a_predicate_of_the_image() -> None:
    hostile = [
        *(b"", b"no image", png_claiming(40_000, 40_000), png_claiming(16_001, 60), png_claiming(9, 9)),
        *(encoded(Image.fromarray(np.zeros((64, 64), np.int32)), "TIFF"), damaged_tiff("tiff_lzw")),
        encoded(sample_image(), "JPEG")[:-400],
        b"\0\0\1\0\1\0" + bytes(12) + struct.pack("<I", 22) + struct.pack("<Iii", 40, 5_000, 10_000),
    ]
    for data in hostile:
        with pytest.raises(InvalidImage) as caught:
            decode_sizes(data, [64])
        problem = caught.value.metadata["problem"]
        assert problem.split()[0] in {"is", "has", "holds"}, problem
        assert not re.search(r"error -?\d|_io\.|Plugin|0x[0-9a-f]{4}", problem), problem
        assert not problem.endswith("."), problem


def test_damaged_files_either_decode_or_raise_invalid_image_format() -> None:
    randomness = random.Random(0)
    for format_ in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "ICO", "TIFF"):
        data = encoded(sample_image(), format_)
        for _ in range(40):
            damaged = bytearray(data)
            for _ in range(randomness.randint(1, 8)):
                damaged[randomness.randrange(len(damaged))] = randomness.randrange(256)
            with contextlib.suppress(InvalidImageFormat, InvalidImageSize):
                assert decode(bytes(damaged)).ndim == 3


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    data = encoded(Image.new("RGB", (64, 64), (255, 0, 0)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() < 12


def test_a_sixteen_bit_png_keeps_its_high_byte() -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = decode(encoded(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(pixels[:, :, 0], ramp >> 8)
    np.testing.assert_array_equal(pixels[:, :, 0], pixels[:, :, 2])


def test_a_sixteen_bit_tiff_is_read_in_either_byte_order() -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    for order in ("<", ">"):
        image = (
            Image.fromarray(ramp.astype(f"{order}u2"))
            if order == "<"
            else Image.frombytes("I;16B", (64, 64), ramp.astype(">u2").tobytes())
        )
        np.testing.assert_array_equal(decode(encoded(image, "TIFF"))[:, :, 1], ramp >> 8)


def test_samples_of_32_bits_are_refused_rather_than_guessed() -> None:
    for array in (np.zeros((64, 64), np.int32), np.full((64, 64), 2, np.float32)):
        with pytest.raises(InvalidImageFormat, match="32 bits"):
            decode(encoded(Image.fromarray(array), "TIFF"))


def test_transparency_is_composited_on_white_in_every_mode() -> None:
    red = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    red.paste((0, 0, 255, 0), (0, 0, 32, 64))
    half = Image.new("LA", (64, 64), (0, 128))
    palette = red.convert("P")
    palette.putpixel((0, 0), 0)
    transparent = Image.new("P", (64, 64), 1)
    transparent.putpalette([255, 0, 0, 0, 255, 0])
    transparent.paste(0, (0, 0, 32, 64))
    assert decode(encoded(red, "PNG"))[0, 0].tolist() == [255, 255, 255]
    assert decode(encoded(red, "PNG"))[0, 63].tolist() == [255, 0, 0]
    assert decode(encoded(half, "PNG"))[5, 5].tolist() == [127, 127, 127]
    pixels = decode(encoded(transparent, "PNG", transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 63].tolist() == [0, 255, 0]


def test_only_the_first_frame_of_an_animation_is_used_and_the_rest_is_flagged() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    for format_ in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
        assert inspect(data).animated, format_
        assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() < 6, format_
    assert not inspect(encoded(frames[0], "GIF")).animated


def test_an_mpo_gives_its_first_frame_and_is_not_an_animation() -> None:
    data = encoded(Image.new("RGB", (64, 64), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    assert inspect(data).format == "MPO"
    assert not inspect(data).animated
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() < 6


def test_an_icon_that_contains_a_huge_image_is_refused_before_it_is_decoded() -> None:
    inner = png_claiming(15_000, 15_000)
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 64, 64, 0, 0, 1, 32, len(inner), 22) + inner
    with pytest.raises(InvalidImageSize, match="15000 x 15000"):
        inspect(icon)


def test_a_long_side_is_scaled_down_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (600, 500, 3), dtype=np.uint8))
    data = encoded(noise, "PNG")
    np.testing.assert_array_equal(decode(data), pixels_of(noise))
    monkeypatch.setattr(decode_module, "SCALED_SIDE", 300)
    whole = decode(data)
    assert whole.shape == (300, 250, 3)
    np.testing.assert_array_equal(whole, pixels_of(noise.resize((250, 300), Image.Resampling.BILINEAR)))
    monkeypatch.setattr(decode_module, "STRIP_PIXELS", 500 * 37)
    assert np.abs(decode(data).astype(int) - whole).max() <= 1


def test_an_image_of_15000_pixels_per_side_is_scaled_in_bounded_memory(tmp_path: Path) -> None:
    compressor = zlib.compressobj(1)
    rows = b"".join(compressor.compress(bytes(1 + 15_000)) for _ in range(15_000)) + compressor.flush()
    path = tmp_path / "giant.png"
    path.write_bytes(png_claiming(15_000, 15_000, rows, colour_type=0))
    # The kernel's high-water mark: getrusage would include that of the parent process.
    program = (
        "import pathlib, re, sys; from services.vision.decode import decode;"
        "pixels = decode(pathlib.Path(sys.argv[1]).read_bytes());"
        "peak = re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1];"
        "print(*pixels.shape, peak)"
    )
    output = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    height, width, channels, peak_kib = map(int, output.stdout.split())
    assert (height, width, channels) == (10_240, 10_240, 3)
    assert peak_kib < 1_000_000  # 225 MB of grey samples, 315 MB of result, and the strips between


def test_a_jpeg_may_be_decoded_smaller_but_not_below_at_least() -> None:
    data = encoded(sample_image(1600, 960), "JPEG")
    assert decode(data, at_least=256).shape == (480, 800, 3) or decode(data, at_least=256).shape == (320, 534, 3)
    assert min(decode(data, at_least=256).shape[:2]) >= 256
    assert decode(data).shape == (960, 1600, 3)
    assert decode(turned(6, "JPEG"), at_least=48).shape == (64, 48, 3)


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_an_image_is_decoded_once_for_each_scale(format_: str) -> None:
    data, sizes = encoded(sample_image(1600, 960), format_), (100, 120, 300, 480, 481, 2_000)
    with patch.object(decode_module, "decode", wraps=decode) as decoded:
        found = decode_sizes(data, sizes).pixels
    assert decoded.call_count == (3 if format_ == "JPEG" else 1)
    for size in sizes:
        np.testing.assert_array_equal(found[size], decode(data, at_least=size))


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_a_plain_jpeg_or_png_is_packed_unchanged(format_: str) -> None:
    data = encoded(sample_image(), format_)
    packed = encode_for_pack(data, inspect(data))
    assert packed.data is data
    assert (packed.extension, packed.width, packed.height) == ({"JPEG": "jpg", "PNG": "png"}[format_], 96, 128)


def test_turned_animated_and_other_images_are_re_encoded_and_look_the_same() -> None:
    animated = encoded(sample_image(), "PNG", save_all=True, append_images=[Image.new("RGB", (96, 128))])
    cases = [(turned(6, "JPEG", quality=95), "jpg"), (turned(5, "PNG"), "png"), (animated, "png")]
    cases += [(encoded(sample_image(), format_), "png") for format_ in ("BMP", "GIF", "TIFF")]
    cases += [(encoded(sample_image(), "WEBP"), "jpg")]
    for data, extension in cases:
        packed = encode_for_pack(data, inspect(data))
        again = inspect(packed.data)
        assert packed.reencoded
        assert packed.extension == extension
        assert (again.orientation, again.animated, again.width, again.height) == (1, False, 96, 128)
        difference = np.abs(decode(packed.data).astype(int) - decode(data)).mean()
        assert difference == 0 if extension == "png" else difference < 3
        assert encode_for_pack(data, inspect(data)).data == packed.data


def test_an_image_above_10240_pixels_is_scaled_for_the_pack() -> None:
    data = encoded(Image.new("RGB", (12_000, 60), "red"), "PNG")
    packed = encode_for_pack(data, inspect(data))
    assert (packed.width, packed.height, packed.extension) == (10_240, 51, "jpg")
    assert inspect(packed.data).width == 10_240


def test_a_broken_image_never_reaches_a_pack() -> None:
    data = encoded(sample_image(), "JPEG")
    with pytest.raises(InvalidImageFormat):
        encode_for_pack(data[: len(data) // 2], inspect(data))
