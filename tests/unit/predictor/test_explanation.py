"""What an explanation makes of an image before the network sees it."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from services.predictor.explanation import inputs_of
from services.vision.decode import Decoded, decode_sizes
from services.vision.inputs import Pixels


@pytest.mark.parametrize(
    ("width", "height", "seen"),
    [(600, 400, (400, 600)), (2047, 300, (300, 2047)), (5000, 4000, (1000, 1250)), (6000, 100, (100, 6000))],
)
def test_images_that_are_much_larger_than_needed_are_scaled_down_once_rather_than_for_every_cell(
    width: int, height: int, seen: tuple[int, int]
) -> None:
    file = BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    arranged: list[Pixels] = []

    def arrange(decoded: Decoded) -> tuple[Pixels]:
        arranged.append(decoded.pixels[224])
        return (np.zeros((1, 1, 3), np.uint8),)

    made = inputs_of(decode_sizes(file.getvalue(), (224,)), arrange)
    assert {pixels.shape[:2] for pixels in arranged} == {seen}
    assert (made.info.width, made.info.height) == (width, height)
    assert len(made.covered) == len(list(made.grid.cells())) == len(arranged) - 1
