"""The letterbox: an input depends on its image and the rule only, and boxes are converted exactly."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from services.vision import preprocess
from services.vision.card import InputRule
from services.vision.letterbox import letterbox

RULE = InputRule(size=64, resize=64, fit="letterbox", mean=(0, 0, 0), std=(1, 1, 1), scale=1.0)


@pytest.mark.parametrize(
    ("width", "height", "inner", "outer"),
    [
        (640, 480, (640, 480), (640, 480)),
        (480, 640, (480, 640), (480, 640)),
        (1000, 667, (640, 427), (640, 448)),
        (100, 50, (640, 320), (640, 320)),
        (50, 16_000, (2, 640), (32, 640)),
        (16_000, 1, (640, 1), (640, 32)),
    ],
)
def test_an_image_is_padded_to_its_own_multiples_of_32(
    width: int, height: int, inner: tuple[int, int], outer: tuple[int, int]
) -> None:
    frame = letterbox(width, height, 640)
    assert (frame.inner_width, frame.inner_height) == inner
    assert (frame.input_width, frame.input_height) == outer
    assert frame.scale_x * width == pytest.approx(inner[0])
    assert frame.scale_y * height == pytest.approx(inner[1])


def test_boxes_are_converted_from_the_input_to_the_image() -> None:
    frame = letterbox(1000, 667, 640)
    boxes = np.array([[[0.0, 0.0, 640.0, 427.0]], [[6.4, 42.7, 64.0, 213.5]]], np.float32)
    expected = np.array([[[0.0, 0.0, 1000.0, 667.0]], [[10.0, 66.7, 100.0, 333.5]]])
    np.testing.assert_allclose(frame.to_image(boxes), expected, rtol=1e-6)
    assert frame.to_image(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_an_image_decoded_smaller_has_the_letterbox_of_the_original() -> None:
    rgb = np.full((334, 501, 3), 200, np.uint8)  # a JPEG of 1001 x 667 at half its size
    rule = InputRule(size=640, resize=640, fit="letterbox", mean=(0, 0, 0), std=(1, 1, 1), scale=1.0)
    frame = letterbox(1001, 667, 640)
    assert frame.inner_height == 426
    view = preprocess.apply(rgb, rule, frame)
    assert view.shape == (3, 448, 640)
    assert view[:, :426].unique().tolist() == [200]
    assert view[:, 426:].unique().tolist() == [114]


def test_a_file_s_orientation_is_applied_before_its_letterbox() -> None:
    out = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored landscape, shown portrait
    Image.new("RGB", (100, 50), (200, 200, 200)).save(out, "JPEG", exif=exif)
    view = preprocess.load(out.getvalue(), RULE)
    assert view.shape == (3, 64, 32)
    assert view.min() > 150


def test_a_large_jpeg_is_decoded_smaller_without_its_letterbox_changing() -> None:
    out = BytesIO()
    Image.new("RGB", (4001, 3001), (200, 0, 0)).save(out, "JPEG")
    view = preprocess.load(out.getvalue(), RULE)
    assert view.shape == (3, 64, 64)
    assert view[0, :48].min() > 190
    assert view[0, 48:].unique().tolist() == [114]


def test_a_letterbox_decodes_at_one_and_a_half_times_its_size() -> None:
    assert InputRule(size=416, resize=416, fit="letterbox").at_least == 640
    assert InputRule(size=640, resize=640, fit="letterbox").at_least == 1024
