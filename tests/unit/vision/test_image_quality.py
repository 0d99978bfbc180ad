"""Images that hardly can be of use are noticed, and ordinary ones are not."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from services.vision.decode import read
from services.vision.image_quality import quality_notes
from tests.support.hostile_images import encoded
from tests.support.odd_images import photo

NOISE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
EVERY = 7  # of the real images


def codes(pixels: NDArray[np.uint8]) -> list[str]:
    return [note.code for note in quality_notes(pixels)]


def within(low: int, high: int) -> NDArray[np.uint8]:
    return (low + NOISE.astype(int) * (high - low) // 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((240, 320, 3), (1, 90, 200), np.uint8), ["imageBlank"]),
        (within(0, 14), ["imageDark"]),
        (within(0, 60), []),
        (within(240, 255), ["imageBright"]),
        (within(180, 255), []),
        (within(100, 102), ["imageLowContrast"]),
        (within(100, 110), []),
        (NOISE[:50], ["imageLowResolution", "imageAspectExtreme"]),
        (NOISE[:64], []),
        (np.repeat(NOISE, 4, axis=1), ["imageAspectExtreme"]),
        (NOISE, []),
    ],
)
def test_what_is_noticed(pixels: NDArray[np.uint8], expected: list[str]) -> None:
    assert codes(pixels) == expected


def test_a_few_bright_pixels_make_no_image_of_a_dark_one() -> None:
    dark = within(0, 14)
    dark[-6:, -30:] = 255  # a date
    assert codes(dark) == ["imageDark"]
    dark[60:180, 80:240] = 200
    assert codes(dark) == []


def test_strokes_on_white_are_no_bright_image() -> None:
    page = np.full((105, 105, 3), 255, np.uint8)
    page[20:90, 50:53] = 0
    assert codes(page) == []


def test_one_pixel_of_another_colour_is_no_blank_image() -> None:
    pixels = np.full((240, 320, 3), 200, np.uint8)
    pixels[111, 113] = 201
    assert codes(pixels) == ["imageLowContrast"]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "radius", "noted"),
    [
        ("fork_scissors", 0.02, 1.0),
        ("grocery", 0.02, 1.0),
        ("kuih", 0.02, 1.0),
        ("raccoon", 0.02, 1.0),
        ("traffic_lights", 0.02, 1.0),
        ("trash", 0.02, 0.8),  # some show little more than a plain surface
        ("hemlock_cherry", 0.003, 0.0),
        ("trash", 0.003, 0.0),
    ],
)
def test_blurred_photos_are_noted_and_soft_ones_are_not(
    test_data: Path, name: str, radius: float, noted: float
) -> None:
    found: list[bool] = []
    for file in sorted((test_data / name / "images").rglob("*.*"))[:80:8]:
        image = Image.fromarray(read(file.read_bytes()).pixels)
        image.thumbnail((800, 800))
        blurred = image.filter(ImageFilter.GaussianBlur(radius * max(image.size)))
        found.append("imageBlurred" in codes(np.asarray(blurred)))
    assert np.mean(found) >= noted
    assert noted or not any(found)


@pytest.mark.real_data
def test_a_photo_taken_while_the_camera_moved_is_noted(test_data: Path) -> None:
    image = Image.fromarray(read(min((test_data / "grocery" / "images").rglob("*.*")).read_bytes()).pixels)
    image.thumbnail((800, 800))
    pixels = np.asarray(image).astype(float)
    moved = np.mean([np.roll(pixels, shift, axis=1) for shift in range(50)], axis=0)[:, 50:]
    assert codes(moved.astype(np.uint8)) == ["imageBlurred"]
    assert codes(np.asarray(image)) == []


def test_an_image_without_edges_is_not_called_blurred() -> None:
    ramp = np.repeat(np.linspace(0, 255, 320).astype(np.uint8)[None], 240, axis=0)
    assert codes(np.stack([ramp] * 3, axis=-1)) == []


def test_a_16_bit_image_of_few_values_is_found_dark_or_stretched() -> None:
    samples = np.random.default_rng(0).integers(0, 41, (60, 80)).astype(np.uint16)
    notes = [note.code for note in read(encoded(Image.fromarray(samples), "PNG")).notes]
    assert notes == ["imageDepthJudged"]


@pytest.mark.real_data
def test_real_images_are_decoded_as_ever_and_get_no_note(test_data: Path) -> None:
    files = sorted(test_data.glob("*/images/**/*.*"))[::EVERY]
    assert len({file.parts[-3] for file in files}) > 5
    for file in files:
        data = file.read_bytes()
        reading = read(data, name=file.name)
        assert reading.data is data
        with Image.open(file) as image:
            turned = image.getexif().get(0x0112, 1) != 1
            plain = not turned and not image.has_transparency_data and max(image.size) <= 10_240
            expected = np.asarray(image.convert("RGB")) if plain else reading.pixels
        np.testing.assert_array_equal(reading.pixels, expected)
        notes = [*reading.notes, *quality_notes(reading.pixels)]
        assert not [
            note for note in notes if min(reading.pixels.shape[:2]) >= 64 or note.code != "imageLowResolution"
        ], file


def test_an_ordinary_photo_gets_no_note() -> None:
    image = photo()
    image.paste("black", (40, 30, 80, 70))  # all else in it is as smooth as in a blurred image
    for form in ("JPEG", "PNG", "WEBP"):
        reading = read(encoded(image, form))
        assert (*reading.notes, *quality_notes(reading.pixels)) == ()


def test_a_small_scan_that_was_scaled_up_is_not_called_blurred() -> None:
    scan = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)).convert("RGB")
    assert codes(np.asarray(scan.resize((96, 96), Image.Resampling.BICUBIC))) == []
    assert codes(np.asarray(scan.resize((160, 160), Image.Resampling.BICUBIC))) == ["imageBlurred"]
