"""What samples mean: depth, transparency and further bands are judged over the whole image, and said."""

from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from services.kit.errors import InvalidImageFormat
from services.vision import decode as decode_module
from services.vision.decode import decode, inspect, read
from services.vision.repack import encode_for_pack
from sightline.images.faults import Note
from sightline.images.upright import upright
from tests.support.hostile_images import encoded
from tests.support.odd_images import GREY, GREY_ALPHA, RGB, RGBA, photo, png_of, tags_of, tiff_of

WHITE = 65_535


def ramp(bits: int, bands: int = 1) -> NDArray[np.uint16]:
    """Samples that use exactly so many bits."""
    values = np.linspace(0, (1 << bits) - 1, 60 * 80 * bands).round().astype(np.uint16)
    return values.reshape((60, 80, bands) if bands > 1 else (60, 80))


def with_alpha(samples: NDArray[np.uint16], alpha: int) -> NDArray[np.uint16]:
    colours = samples if samples.ndim == 3 else samples[..., None]
    return np.concatenate([colours, np.full((*samples.shape[:2], 1), alpha, np.uint16)], axis=2)


def tiff(samples: NDArray[Any], *, order: Literal["<", ">"] = "<", white_is_zero: bool = False, **more: Any) -> bytes:
    """An uncompressed TIFF of grey or RGB samples, and further bands."""
    height, width, bands = (*samples.shape, 1)[:3]
    bits = [8 * samples.itemsize] * bands
    tags = tags_of(width, height, photometric=0 if white_is_zero else 2 if bands > 2 else 1, bits=bits, **more)
    return tiff_of([tags], [samples.astype(samples.dtype.newbyteorder(order)).tobytes()], order=order)


def lzw(samples: NDArray[np.uint16]) -> bytes:
    return encoded(Image.fromarray(samples), "TIFF", compression="tiff_lzw")


FILES = {
    "grey PNG": lambda bits: png_of(ramp(bits), GREY),
    "RGB PNG": lambda bits: png_of(ramp(bits, 3), RGB),
    "grey PNG with opaque alpha": lambda bits: png_of(with_alpha(ramp(bits), WHITE), GREY_ALPHA),
    "RGB PNG with opaque alpha": lambda bits: png_of(with_alpha(ramp(bits, 3), WHITE), RGBA),
    "RGB PNG with alpha as deep": lambda bits: png_of(with_alpha(ramp(bits, 3), (1 << bits) - 1), RGBA),
    "grey TIFF": lambda bits: tiff(ramp(bits)),
    "grey TIFF, big-endian": lambda bits: tiff(ramp(bits), order=">"),
    "grey TIFF, compressed": lambda bits: lzw(ramp(bits)),
    "RGB TIFF": lambda bits: tiff(ramp(bits, 3)),
    "RGB TIFF, big-endian": lambda bits: tiff(ramp(bits, 3), order=">"),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("name", FILES)
def test_samples_that_leave_the_upper_bits_unused_are_stretched(tmp_path: Path, name: str, bits: int) -> None:
    data = FILES[name](bits)
    bands = 1 if "grey" in name else 3
    reading = read(data)
    assert reading.notes == (Note("imageDepthJudged", {"bits": str(bits)}),)
    expected = ramp(bits, bands).reshape(60, 80, bands) >> (bits - 8)
    np.testing.assert_array_equal(reading.pixels, np.broadcast_to(expected, (60, 80, 3)))
    (tmp_path / "image").write_bytes(data)
    np.testing.assert_array_equal(np.asarray(upright(tmp_path / "image")), reading.pixels)


@pytest.mark.parametrize("name", FILES)
def test_samples_that_use_all_bits_keep_their_high_byte(name: str) -> None:
    data = FILES[name](16)
    bands = 1 if "grey" in name else 3
    reading = read(data)
    assert reading.notes == ()
    expected = ramp(16, bands).reshape(60, 80, bands) >> 8
    np.testing.assert_array_equal(reading.pixels, np.broadcast_to(expected, (60, 80, 3)))


def test_the_depth_is_judged_over_the_whole_image_and_not_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = ramp(12)
    samples[0, 0] = 40_000
    for data in (png_of(samples, GREY), png_of(np.repeat(samples[..., None], 3, axis=2), RGB)):
        monkeypatch.setattr(decode_module, "STRIP_PIXELS", 80 * 7)
        reading = read(data)
        assert reading.notes == ()
        np.testing.assert_array_equal(reading.pixels[..., 1], samples >> 8)
    np.testing.assert_array_equal(decode(png_of(ramp(12), GREY))[..., 0], ramp(12) >> 4)


@pytest.mark.parametrize("samples", [ramp(16), ramp(12), ramp(8).astype(np.uint8), ramp(8).astype(np.float32) / 255])
def test_a_tiff_whose_white_is_zero_is_no_negative(tmp_path: Path, samples: NDArray[Any]) -> None:
    more: list[Any] = [(339, 3, [3])] if samples.dtype == np.float32 else []
    usual, inverted = (tiff(samples, white_is_zero=white_is_zero, more=more) for white_is_zero in (False, True))
    pixels = decode(inverted)
    np.testing.assert_array_equal(pixels, 255 - decode(usual))
    (tmp_path / "image").write_bytes(inverted)
    np.testing.assert_array_equal(np.asarray(upright(tmp_path / "image")), pixels)
    packed = encode_for_pack(inverted, inspect(inverted))
    with Image.open(BytesIO(packed.data)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels)


def test_a_black_image_has_no_depth() -> None:
    assert read(png_of(np.zeros((60, 80), np.uint16), GREY)).notes == ()


def test_a_stretched_png_is_packed_so_that_every_decoder_reads_the_same() -> None:
    data = png_of(ramp(12), GREY)
    packed = encode_for_pack(data, inspect(data))
    assert packed.reencoded
    with Image.open(BytesIO(packed.data)) as image:
        np.testing.assert_array_equal(np.asarray(image), decode(data))
    assert read(packed.data).notes == ()


def test_floats_from_0_to_1_are_read_and_others_refused() -> None:
    samples = np.linspace(0, 1, 60 * 80, dtype=np.float32).reshape(60, 80)
    data = encoded(Image.fromarray(samples), "TIFF")
    np.testing.assert_array_equal(decode(data)[..., 2], (samples * 255 + 0.5).astype(np.uint8))
    for factor, offset in ((255, 0), (1, -0.5), (np.nan, 0), (np.inf, 0)):
        wrong = samples.copy()
        wrong[3, 3] = 1
        wrong = (wrong * factor + offset).astype(np.float32)
        with pytest.raises(InvalidImageFormat, match="32 bits"):
            decode(encoded(Image.fromarray(wrong), "TIFF"))
    samples[30, 40] = np.nan
    with pytest.raises(InvalidImageFormat, match="32 bits"):
        decode(encoded(Image.fromarray(samples), "TIFF"))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_of_0_everywhere_is_ignored(form: str, mode: str) -> None:
    image = photo().convert(mode)
    image.putalpha(0)
    options: dict[str, Any] = {"lossless": True, "exact": True} if form == "WEBP" else {}
    reading = read(encoded(image, form, **options))
    assert reading.notes == (Note("imageAlphaIgnored"),)
    assert not reading.as_elsewhere
    np.testing.assert_array_equal(reading.pixels, np.asarray(image.convert("RGB")))
    image.putpixel((3, 3), (9, 9, 9, 255) if mode == "RGBA" else (9, 255))
    assert read(encoded(image, form, **options)).notes == ()
    assert decode(encoded(image, form, **options))[50, 50].tolist() == [255, 255, 255]


def test_a_palette_that_is_transparent_throughout_counts_as_opaque() -> None:
    image = photo().convert("P")
    expected = np.asarray(image.convert("RGB"))
    reading = read(encoded(image, "PNG", transparency=bytes(256)))
    assert reading.notes == (Note("imageAlphaIgnored"),)
    np.testing.assert_array_equal(reading.pixels, expected)
    half = read(encoded(image, "PNG", transparency=bytes(100)))
    assert half.notes == ()
    assert (half.pixels != expected).any()


def test_further_bands_are_ignored_and_said() -> None:
    colours = np.asarray(photo(80, 60))
    infrared = np.full((60, 80, 1), 90, np.uint8)
    four = np.concatenate([colours, infrared], axis=2)
    for samples, more, ignored in (
        (four, [], 1),
        (four, [(338, 3, [0])], 1),
        (np.concatenate([four, infrared], axis=2), [(338, 3, [0, 0])], 2),
    ):
        reading = read(tiff(samples, more=more))
        assert reading.notes == (Note("imageBandsIgnored", {"bands": str(ignored)}),)
        np.testing.assert_array_equal(reading.pixels, colours)
    declared = read(tiff(four, more=[(338, 3, [2])]))
    assert declared.notes == ()
    assert (declared.pixels != colours).any(), "composited on white"


def test_bitmaps_cmyk_and_palettes_of_a_tiff_become_rgb() -> None:
    for mode in ("1", "L", "P", "CMYK", "LA", "YCbCr"):
        image = photo().convert(mode)
        options = {"compression": "tiff_adobe_deflate"} if mode == "YCbCr" else {}
        reading = read(encoded(image, "TIFF", **options))
        assert reading.notes == (), mode
        assert np.abs(reading.pixels.astype(int) - np.asarray(image.convert("RGB"))).max() <= 3, mode


def test_samples_that_are_no_picture_are_named() -> None:
    data = tiff(np.zeros((60, 80, 7), np.uint16), more=[(338, 3, [0] * 4)])
    with pytest.raises(InvalidImageFormat, match=r"is a TIFF with 7 bands of 16-bit samples, which is no picture"):
        decode(data)
