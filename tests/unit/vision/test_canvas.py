"""Training views of detectors: boxes follow pixels, and only the generator decides."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.vision import preprocess
from services.vision.canvas import AnnotatedImage, Canvas, augmented, fitting_canvas, plain, shrunk, variation
from services.vision.card import InputRule

RULE = InputRule(size=128, resize=128, fit="letterbox", mean=(0, 0, 0), std=(1, 1, 1), scale=1.0)
RED, BLUE = (250, 0, 0), (0, 0, 250)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def painted(width: int, height: int, box: tuple[int, int, int, int]) -> AnnotatedImage:
    """Blue, with one red box."""
    rgb = np.full((height, width, 3), BLUE, np.uint8)
    left, top, right, bottom = box
    rgb[top:bottom, left:right] = RED
    return AnnotatedImage(rgb, torch.tensor([box], dtype=torch.float32), torch.tensor([1]))


def red_box(view: Tensor) -> list[float]:
    """Left, top, right, bottom of what is more red than blue, as colours may be jittered."""
    red = view[0] - view[2] > 0
    rows, columns = torch.nonzero(red.any(dim=1)).flatten(), torch.nonzero(red.any(dim=0)).flatten()
    return [float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1]


@pytest.mark.parametrize("box", [(40, 30, 90, 70), (0, 0, 50, 40), (150, 80, 200, 120), (0, 0, 200, 120)])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_boxes_follow_their_pixels(box: tuple[int, int, int, int], strength: float) -> None:
    sample_image, seen = painted(200, 120, box), 0
    for seed in range(40):
        how = variation(strength, mirror=True)
        view, targets = augmented(sample_image, Canvas(128, 96, 128), RULE, how, generator(seed))
        assert view.shape == (3, 96, 128)
        if len(targets.boxes):
            seen += 1
            assert targets.labels.tolist() == [1]
            assert targets.boxes[0].tolist() == pytest.approx(red_box(view), abs=1)
    assert seen >= 25


def test_only_the_generator_decides_the_view() -> None:
    sample_image = painted(200, 120, (40, 30, 90, 70))

    def view(seed: int) -> tuple[Tensor, Tensor]:
        how = variation(0.7, mirror=True)
        image, targets = augmented(sample_image, Canvas(128, 96, 128), RULE, how, generator(seed))
        return image, targets.boxes

    first = view(1)
    torch.rand(7)
    assert torch.equal(view(1)[0], first[0])
    assert torch.equal(view(1)[1], first[1])
    assert not torch.equal(view(2)[0], first[0])


def test_a_plain_view_is_the_served_input() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (100, 140, 3), np.uint8)
    sample_image = AnnotatedImage(rgb, torch.tensor([[14.0, 10.0, 140.0, 100.0]]), torch.tensor([0]))
    view, targets = plain(sample_image, Canvas(128, 96, 128), RULE)
    step = RULE.scale / min(RULE.std)  # training resizes by torchvision, which may round a sample differently
    torch.testing.assert_close(view, preprocess.apply(rgb, RULE), atol=1.01 * step, rtol=0)
    assert targets.boxes[0].tolist() == pytest.approx([12.8, 9.1, 128, 91], abs=0.01)
    still, _ = augmented(sample_image, Canvas(128, 96, 128), RULE, variation(0, mirror=False), generator(3))
    assert torch.equal(still, view)


@pytest.mark.parametrize("longer", [77, 154, 303])
def test_a_plain_view_s_longer_side_is_the_canvas_s_despite_rounding(longer: int) -> None:
    _, targets = plain(painted(longer, 60, (0, 0, longer, 60)), Canvas(320, 320, 320), RULE)
    assert targets.boxes[0, 2] == 320


def test_a_plain_view_shrinks_to_fit_a_narrow_canvas() -> None:
    sample_image = painted(100, 200, (0, 0, 100, 200))
    view, targets = plain(sample_image, Canvas(128, 96, 128), RULE)
    assert view.shape == (3, 96, 128)
    assert targets.boxes[0].tolist() == pytest.approx([0, 0, 48, 96], abs=0.01)


def test_strength_widens_the_range_of_sizes() -> None:
    sample_image = painted(128, 96, (54, 38, 74, 58))

    def widths(strength: float) -> list[float]:
        how = variation(strength, mirror=False)
        views = (augmented(sample_image, Canvas(128, 96, 128), RULE, how, generator(seed)) for seed in range(60))
        whole = [targets.boxes[0] for _, targets in views if len(targets.boxes)]
        return sorted(float(box[2] - box[0]) for box in whole)

    assert widths(0)[0] == widths(0)[-1] == 20
    assert widths(1)[0] < 12
    assert widths(1)[-1] > 30


def test_views_are_mirrored_at_the_given_probability_and_never_when_forbidden() -> None:
    sample_image = painted(128, 96, (0, 0, 30, 96))

    def at_left(*, mirror: bool) -> int:
        how = variation(0, mirror=mirror)
        views = (augmented(sample_image, Canvas(128, 96, 128), RULE, how, generator(seed)) for seed in range(40))
        return sum(bool(targets.boxes[0, 0] == 0) for _, targets in views)

    assert at_left(mirror=False) == 40
    assert 10 <= at_left(mirror=True) <= 30


def test_slivers_of_boxes_are_not_targets() -> None:
    sample_image = AnnotatedImage(
        np.zeros((96, 128, 3), np.uint8),
        torch.tensor([[10.0, 10.0, 11.0, 60.0], [-90.0, 10.0, 10.0, 60.0], [-10.0, 10.0, 90.0, 60.0]]),
        torch.tensor([0, 1, 2]),
    )
    _, targets = plain(sample_image, Canvas(128, 96, 128), RULE)
    assert targets.labels.tolist() == [2]
    assert targets.boxes.tolist() == [[0, 10, 90, 60]]


@pytest.mark.parametrize(("width", "height"), [(50, 16_000), (16_000, 50), (1, 1), (50, 50)])
def test_images_of_extreme_shape_have_views(width: int, height: int) -> None:
    rgb: NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
    whole = torch.tensor([[0.0, 0.0, width, height]])
    sample_image = shrunk(rgb, whole, torch.tensor([0]), width=width, height=height, side=128)
    assert max(sample_image.rgb.shape) <= 160
    for seed in range(5):
        view, targets = augmented(sample_image, Canvas(128, 96, 128), RULE, variation(1, mirror=True), generator(seed))
        assert view.shape == (3, 96, 128)
        assert view.isfinite().all()
        assert targets.boxes.shape[1] == 4
    assert plain(sample_image, Canvas(128, 96, 128), RULE)[0].shape == (3, 96, 128)


def test_an_image_without_boxes_has_views_without_targets() -> None:
    sample_image = AnnotatedImage(
        np.zeros((96, 128, 3), np.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    )
    _, targets = augmented(sample_image, Canvas(128, 96, 128), RULE, variation(1, mirror=True), generator(0))
    assert targets.boxes.shape == (0, 4)
    assert targets.labels.shape == (0,)


def test_a_shrunk_image_is_small_and_its_boxes_are_in_its_own_pixels() -> None:
    rgb = np.zeros((300, 400, 3), np.uint8)  # decoded from 800 x 600
    boxes = torch.tensor([[80.0, 60.0, 800.0, 600.0]])
    sample_image = shrunk(rgb, boxes, torch.tensor([0]), width=800, height=600, side=128)
    assert sample_image.rgb.shape == (120, 160, 3)
    assert sample_image.boxes.tolist() == [[16, 12, 160, 120]]
    small = shrunk(rgb[:60, :80], boxes, torch.tensor([0]), width=800, height=600, side=128)
    assert small.rgb.shape == (60, 80, 3)
    assert small.rgb.base is None
    assert small.boxes.tolist() == [[8, 6, 80, 60]]


def test_a_canvas_fits_the_images_of_its_dataset() -> None:
    assert fitting_canvas([(640, 480)] * 10, 640) == Canvas(640, 480, 640)
    assert fitting_canvas([(640, 480)] * 19 + [(480, 640)], 416) == Canvas(416, 320, 416)
    assert fitting_canvas([(640, 480), (480, 640)], 416) == Canvas(416, 416, 416)
    assert fitting_canvas([(1000, 200)], 320) == Canvas(320, 64, 320)
    assert fitting_canvas([], 320) == Canvas(320, 320, 320)
