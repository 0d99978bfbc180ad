"""The script of an archive decodes and frames images as the services do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.kit.errors import InvalidImage
from services.vision.card import InputRule
from services.vision.decode import decode_sizes
from services.vision.exports import predict
from services.vision.inputs import framed
from services.vision.letterbox import letterbox
from tests.support.exported import pictures
from tests.support.hostile_images import encoded

RULES = [
    InputRule(64, 73),
    InputRule(64, 64, fit="stretch", interpolation="bicubic"),
    InputRule(96, 96, fit="letterbox"),
    InputRule(224, 256, interpolation="bicubic"),
]
SIZES = [(97, 64), (64, 97), (640, 50), (50, 640), (333, 333), (301, 200), (7, 5), (1, 300)]


def described(rule: InputRule) -> predict.Json:
    kept = {"fit": rule.fit, "size": rule.size, "resize": rule.resize, "interpolation": rule.interpolation}
    return {"name": "image", "at_least": rule.at_least, **kept}


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that JPEG decoders shrink it."""
    path = tmp_path_factory.mktemp("photo") / "large.jpg"
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    path.write_bytes(encoded(small.resize((1600, 1200), Image.Resampling.BICUBIC), "JPEG", quality=90))
    return path


@pytest.mark.parametrize(
    "rule", RULES, ids=lambda value: f"{value.fit}-{value.size}" if isinstance(value, InputRule) else str(value)
)
@pytest.mark.parametrize(
    "size", SIZES, ids=lambda value: f"{value.fit}-{value.size}" if isinstance(value, InputRule) else str(value)
)
def test_pixels_are_framed_as_in_serving(rule: InputRule, size: tuple[int, int]) -> None:
    width, height = size
    rgb = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    frame = letterbox(width, height, rule.size)
    pixels, inner = predict.framed_as(rgb, width, height, described(rule))
    np.testing.assert_array_equal(pixels, framed(rgb, rule, frame))
    if rule.fit == "letterbox":
        assert inner == (frame.inner_width, frame.inner_height)


@pytest.mark.parametrize(
    "rule", RULES, ids=lambda value: f"{value.fit}-{value.size}" if isinstance(value, InputRule) else str(value)
)
def test_files_are_decoded_as_in_serving(rule: InputRule, photo: Path) -> None:
    for name, data in pictures(photo).items():
        expected = decode_sizes(data, (rule.at_least,), name, min_side=1)
        pixels, width, height = predict.decoded(data, rule.at_least)
        assert (width, height) == (expected.info.width, expected.info.height), name
        np.testing.assert_array_equal(pixels, expected.pixels[rule.at_least], err_msg=name)


def test_what_the_service_refuses_the_script_does_not_read(photo: Path) -> None:
    for data in (b"nonsense", photo.read_bytes()[:5000]):
        with pytest.raises(InvalidImage):
            decode_sizes(data, (64,))
        with pytest.raises((OSError, ValueError)):
            predict.decoded(data, 64)


def an_answer(**scores: float) -> predict.Json:
    values = [{"name": name, "confidence": score} for name, score in scores.items()]
    return {"customModelResult": {"tagsResult": {"values": values}}}


def of_objects(*objects: tuple[str, float, int]) -> predict.Json:
    values = [
        {"boundingBox": {"x": x, "y": 3, "w": 20, "h": 30}, "tags": [{"name": name, "confidence": score}]}
        for name, score, x in objects
    ]
    return {"customModelResult": {"objectsResult": {"values": values}}}


def test_answers_are_compared_by_category_score_and_box() -> None:
    assert predict.difference(an_answer(a=0.7, b=0.3), an_answer(b=0.3, a=0.6), 0) == pytest.approx(0.1)
    assert predict.difference(of_objects(("a", 0.5, 10)), of_objects(("a", 0.5, 11)), 0.1) == 0
    assert predict.difference(of_objects(("a", 0.10005, 10)), of_objects(), 0.1) == 0, "at the threshold"
    assert predict.difference(of_objects(), of_objects(("a", 0.10005, 10)), 0.1) == 0
    full = {f"t{number}": 0.5 for number in range(predict.MOST - 1)}
    assert predict.difference(an_answer(**full, a=0.2), an_answer(**full, b=0.20005), 0.1) == 0, "at the last place"
    for theirs, ours in (
        (an_answer(**full, a=0.21), an_answer(**full, b=0.2)),
        (an_answer(a=0.7), an_answer(b=0.7)),
        (of_objects(("a", 0.5, 10)), of_objects(("a", 0.5, 12))),
        (of_objects(("a", 0.5, 10)), of_objects(("b", 0.5, 10))),
        (of_objects(("a", 0.5, 10)), of_objects()),
        (of_objects(), of_objects(("a", 0.5, 10))),
        (of_objects(("a", 0.5, 10)), of_objects(("a", 0.5, 10), ("a", 0.5, 10))),
    ):
        with pytest.raises(ValueError, match=r"is missing|should not be there"):
            predict.difference(theirs, ours, 0.1)
