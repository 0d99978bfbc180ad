"""Boxes: which are kept, clipped or refused, and how they turn with their image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from services.dataset.boxes import Frame, Xywh, finding_code, scaled, turned

FRAME = Frame(200, 100)


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ((0, 0, 200, 100), ""),
        ((0, 0, 200.1, 100.05), ""),
        ((-0.1, 0, 50, 50), ""),
        ((180, 10, 25, 20), "boxClipped"),
        ((150, 10, 100, 50), "boxClipped"),
        ((190, 10, 100, 50), "boxOutOfFrame"),
        ((10, 120, 50, 60), "boxSidesSwapped"),
        ((150, 20, 190, 90), "boxAsCorners"),
        ((10, 10, 0, 5), "boxEmpty"),
        ((10, 10, 5, -1), "boxEmpty"),
        ((-50, -50, 20, 20), "boxOutOfFrame"),
        ((1e300, 1e300, 1e300, 1e300), "boxOutOfFrame"),
    ],
)
def test_a_box_is_judged_by_what_lies_inside(box: Xywh, code: str) -> None:
    assert finding_code(box, FRAME) == code


numbers = st.floats(-1e6, 1e6)


@given(st.tuples(numbers, numbers, numbers, numbers))
def test_a_box_that_is_kept_lies_inside_with_a_positive_area(box: Xywh) -> None:
    if finding_code(box, FRAME) not in ("", "boxClipped"):
        return
    x, y, w, h = FRAME.clipped(box)
    assert x >= 0
    assert y >= 0
    assert w > 0
    assert h > 0
    assert x + w <= 200 + 1e-9
    assert y + h <= 100 + 1e-9


@given(st.tuples(*[st.floats(0.01, 1)] * 4))
def test_a_box_within_the_frame_is_unchanged(parts: Xywh) -> None:
    x, y = parts[0] * 100, parts[1] * 50
    box = x, y, parts[2] * 100, parts[3] * 50
    assert finding_code(box, FRAME) == ""
    assert FRAME.clipped(box) == pytest.approx(box)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_turns_as_pillow_turns_its_image(orientation: int) -> None:
    pixels = np.zeros((60, 80), np.uint8)
    pixels[10:25, 30:70] = 255
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    upright = np.asarray(ImageOps.exif_transpose(image))
    rows, columns = np.nonzero(upright)
    expected = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
    assert turned((30, 10, 40, 15), orientation, Frame(80, 60)) == expected


def test_scaling_multiplies_each_axis_by_its_factor() -> None:
    assert scaled((1, 2, 3, 4), 10, 100) == (10, 200, 30, 400)
