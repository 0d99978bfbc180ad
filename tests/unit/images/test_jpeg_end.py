"""JPEG files without their end are read as far as they are of use, and what is missing is said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.kit.errors import InvalidImageFormat
from services.vision.decode import Reading, decode, inspect, read
from services.vision.repack import encode_for_pack
from sightline.images.jpeg_end import MAX_MISSING
from sightline.images.upright import upright
from tests.support.hostile_images import encoded
from tests.support.odd_images import photo, segment

SAMPLES = np.random.default_rng(1).normal(128, 90, (240, 320))
NOISE = Image.fromarray(np.clip(SAMPLES, 0, 255).astype(np.uint8)).convert("RGB")
BASELINES = {
    "colours": (NOISE, {}),
    "full colours": (NOISE, {"subsampling": 0}),
    "grey": (NOISE.convert("L"), {}),
    "CMYK": (NOISE.convert("CMYK"), {}),
    "restarts": (NOISE, {"restart_marker_blocks": 8}),
}


def jpeg(name: str) -> bytes:
    image, options = BASELINES[name]
    return encoded(image, "JPEG", quality=90, **options)


def lack_of(reading: Reading) -> str:
    (note,) = reading.notes
    assert note.code == "imageCutOff"
    return note.words["lack"]


@pytest.mark.parametrize("name", BASELINES)
def test_a_jpeg_without_its_end_marker_is_whole(name: str) -> None:
    data = jpeg(name)
    for cut in (data[:-2], data[:-1], data[:-2] + bytes(5_000)):
        reading = read(cut)
        # a decoder that needs no more bits for the last pixel misses nothing
        assert not reading.notes or lack_of(reading) == "all its pixels are there"
        np.testing.assert_array_equal(reading.pixels[:-16], decode(data)[:-16])
        assert np.abs(reading.pixels.astype(int) - decode(data)).mean() < 0.2, "the last block at most"


@pytest.mark.parametrize("name", BASELINES)
def test_the_missing_share_is_said_up_to_a_tenth_and_refused_beyond(tmp_path: Path, name: str) -> None:
    data = jpeg(name)
    start = data.index(b"\xff\xda")
    for missing in (0.03, 0.06, 0.09):
        cut = data[: start + round((len(data) - start) * (1 - missing))]
        for damaged in (cut, cut + bytes(3_000), cut + b"\xff\xd9", cut + segment(0xFE, b"a comment")):
            found = float(lack_of(read(damaged)).partition("%")[0]) / 100
            assert found == pytest.approx(missing, abs=0.01)
            (tmp_path / "a.jpg").write_bytes(damaged)
            np.testing.assert_array_equal(np.asarray(upright(tmp_path / "a.jpg")), decode(damaged))
            assert decode(damaged, at_least=60).shape[0] == 60
    for missing in (0.13, 0.4, 0.9):
        cut = data[: start + round((len(data) - start) * (1 - missing))]
        for damaged in (cut, cut + b"\xff\xd9"):
            with pytest.raises(InvalidImageFormat, match=r"^image: is cut off: .*, \d+% of the image; replace it"):
                decode(damaged)
    assert MAX_MISSING == 0.1


def test_a_grey_image_or_a_grey_end_is_no_damage() -> None:
    image = NOISE.copy()
    image.paste((128, 128, 128), (0, 120, 320, 240))
    for data in (encoded(image, "JPEG", quality=95), encoded(Image.new("RGB", (320, 240), (128, 128, 128)), "JPEG")):
        reading = read(data)
        assert (reading.notes, reading.data) == ((), data)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("size", [(157, 161), (2001, 2000), (1999, 1501), (4031, 3023)], ids=str)
def test_a_grey_end_is_no_damage_at_any_scale(size: tuple[int, int], *, progressive: bool) -> None:
    width, height = size
    image = photo(width, height)
    image.paste((128, 128, 128), (0, round(0.7 * height), width, height))
    data = encoded(image, "JPEG", progressive=progressive)
    cut = data[: data.index(b"\xff\xda") + 60] + b"\xff\xd9"
    for at_least in (7, 448, 960):
        assert read(data, at_least=at_least).notes == ()
        with pytest.raises(InvalidImageFormat, match="is cut off"):
            decode(cut, at_least=at_least)


def test_a_progressive_jpeg_may_lack_what_refines_it() -> None:
    data = encoded(NOISE, "JPEG", progressive=True, quality=90)
    scans = [place for place in range(len(data)) if data.startswith(b"\xff\xda", place)]
    assert len(scans) > 6
    for cut in (data[:-2], data[: scans[-1] + 900], data[: scans[6] + 30]):
        assert lack_of(read(cut)) == "the image is whole, but may lack its finest details"
        assert np.abs(decode(cut).astype(int) - decode(data)).mean() < 12
    for cut in (data[: scans[0] + 500], data[: scans[3] + 30]):
        with pytest.raises(InvalidImageFormat, match="is cut off"):
            decode(cut)


def test_a_jpeg_that_ends_before_its_pixels_is_refused() -> None:
    data = jpeg("colours")
    for end in (20, 200, data.index(b"\xff\xda") + 8):
        with pytest.raises(InvalidImageFormat, match=r"^image: is cut off"):
            decode(data[:end])


def test_the_mended_file_is_packed_so_that_every_decoder_reads_the_same() -> None:
    cut = jpeg("colours")[:-2]
    packed = encode_for_pack(cut, inspect(cut))
    assert packed.data == cut + b"\xff\xd9"
    assert (packed.reencoded, packed.extension, [note.code for note in packed.notes]) == (True, "jpg", ["imageCutOff"])
    np.testing.assert_array_equal(decode(packed.data), decode(cut))
    np.testing.assert_array_equal(decode(packed.data, at_least=60), decode(cut, at_least=60))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_bytes_after_the_end_change_nothing(form: str) -> None:
    data = encoded(photo(), form)
    for more in (bytes(10_000), b"appended text", encoded(photo(60, 60), "JPEG")):
        np.testing.assert_array_equal(decode(data + more), decode(data))
        assert read(data + more).notes == ()


def test_the_four_colours_of_a_jpeg_are_read_as_adobe_writes_them() -> None:
    red = encoded(Image.new("RGB", (64, 64), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(red).astype(int) - [200, 30, 30]).max() < 12
    place = red.index(b"Adobe") + 11
    assert red[place] == 0, "CMYK as it is"
    turned = red[:place] + b"\2" + red[place + 1 :]  # the same numbers as YCCK: luma and two colours
    assert read(turned).notes == ()
    assert not np.array_equal(decode(turned), decode(red))
