"""The command draws the pixels that the services decode, for every kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.vision.decode import decode
from sightline.images.faults import Unusable
from sightline.images.upright import upright

RAMP = np.linspace(0, 65_535, 60 * 80).astype(np.uint16).reshape(60, 80)
NOISE = Image.effect_noise((80, 60), 90).convert("RGB")


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def transparent() -> Image.Image:
    image = NOISE.convert("RGBA")
    image.paste((0, 0, 255, 0), (0, 0, 40, 60))
    return image


FILES: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "16 bits.png": (Image.fromarray(RAMP), {}),
    "16 bits.tif": (Image.fromarray(RAMP), {}),
    "16 bits, big-endian.tif": (Image.frombytes("I;16B", (80, 60), RAMP.astype(">u2").tobytes()), {}),
    "16 bits, turned.tif": (Image.fromarray(RAMP), turned(6)),
    "transparent.png": (transparent(), {}),
    "transparent palette.png": (NOISE.convert("P"), {"transparency": 3}),
    "transparent grey.png": (transparent().convert("LA"), {}),
    "cmyk.jpg": (NOISE.convert("CMYK"), {}),
    "turned.jpg": (NOISE, turned(8)),
    "turned.tif": (NOISE, turned(5)),
    "no such orientation.png": (NOISE, turned(4711)),
    "animated.gif": (NOISE, {"save_all": True, "append_images": [Image.new("RGB", (80, 60), "blue")]}),
    "bitmap.tif": (NOISE.convert("1"), {"compression": "group4"}),
}


@pytest.mark.parametrize("name", FILES)
def test_the_services_and_the_command_decode_the_same_pixels(tmp_path: Path, name: str) -> None:
    image, options = FILES[name]
    image.save(tmp_path / name, **options)
    pixels = np.asarray(upright(tmp_path / name))
    np.testing.assert_array_equal(pixels, decode((tmp_path / name).read_bytes()))
    assert pixels.std() > 0, "not one colour"


def test_an_image_above_pillows_size_limit_is_read(tmp_path: Path) -> None:
    Image.new("1", (14_000, 13_000)).save(tmp_path / "giant.png")
    assert upright(tmp_path / "giant.png").size == (14_000, 13_000)


def test_samples_of_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 80), 2, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(Unusable, match="32 bits"):
        upright(tmp_path / "a.tif")
