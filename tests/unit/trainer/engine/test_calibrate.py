"""The device factor: the reference device's time for the reference work, divided by this device's."""

import io
import json
from collections.abc import Callable
from itertools import accumulate

import pytest
from PIL import Image

from services.trainer.engine.calibrate import PHOTO, as_json, as_text, calibrate, photo
from services.vision.catalogue import BACKBONES, FIRST_BACKBONE
from services.vision.device import Device

REFERENCE = BACKBONES[FIRST_BACKBONE].seconds
CPU = Device("cpu", "cpu")


def ticking(*run_seconds: float) -> Callable[[], float]:
    """A clock for runs of these durations; it is read at the start and the end of each."""
    moments = accumulate(step for seconds in run_seconds for step in (100.0, seconds))
    return lambda: next(moments)


def test_a_device_that_is_twice_as_fast_is_charged_double_and_the_median_counts() -> None:
    seconds = [4 * REFERENCE * factor for factor in (9.0, 0.5, 0.25, 1.0)]  # the first run only warms up
    found = calibrate(CPU, 1, runs=3, images=4, clock=ticking(*seconds))
    assert found.factor == pytest.approx(2.0)
    assert found.factors == pytest.approx((1.0, 2.0, 4.0))
    assert found.seconds_per_image == pytest.approx(0.5 * REFERENCE)


@pytest.mark.parametrize(("pace", "steady"), [((1.0, 1.02, 0.99), True), ((1.0, 1.5, 0.9), False)])
def test_runs_that_disagree_are_pointed_out(pace: tuple[float, ...], steady: bool) -> None:
    seconds = [2 * REFERENCE * each for each in (1.0, *pace)]
    found = calibrate(CPU, 1, runs=3, images=2, clock=ticking(*seconds))
    assert found.is_steady is steady
    assert ("Repeat it" in as_text(found)) is not steady


def test_the_output_is_the_setting_and_what_it_means() -> None:
    found = calibrate(CPU, 2, runs=1, images=2, clock=ticking(1.0, 2 * REFERENCE * 0.5))
    text = as_text(found)
    assert "SIGHTLINE_DEVICE_FACTOR=2.00" in text
    assert "60 s last 30 s" in text
    assert json.loads(as_json(found))["factor"] == pytest.approx(2.0)


def test_the_real_clock_gives_a_positive_factor() -> None:
    assert calibrate(CPU, 1, runs=1, images=2).factor > 0


def test_photos_are_reproducible_and_of_the_documented_size() -> None:
    assert photo(1) == photo(1) != photo(2)
    image = Image.open(io.BytesIO(photo(1)))
    assert (image.format, image.size) == ("JPEG", PHOTO[::-1])
