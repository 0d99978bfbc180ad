"""One rule for input: training and serving see the same pixels."""

import dataclasses
from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.models import MobileNet_V2_Weights

from services.vision import preprocess
from services.vision.card import InputRule, input_size
from services.vision.inputs import framed
from services.vision.preprocess import Augmentation

RULE = InputRule(size=224, resize=256)


def gradient(width: int, height: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (rows * 255 / height, columns * 255 / width, (rows + columns) % 256)
    return np.stack(channels, axis=2).astype(np.uint8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 500), (224, 224), (60, 400)])
def test_the_rule_equals_torchvision_s_own_transform(width: int, height: int) -> None:
    rgb = gradient(width, height)
    ours = preprocess.apply(rgb, RULE)
    theirs = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()(Image.fromarray(rgb))
    assert ours.shape == theirs.shape == (3, 224, 224)
    # Fixed point against floating point: at most one step of 255, on average far less.
    assert (ours - theirs).abs().mean() < 0.01
    assert (ours - theirs).abs().max() < 0.1


def test_the_same_pixels_give_the_same_input_whether_writeable_or_not() -> None:
    rgb = gradient(300, 200)
    frozen = rgb.copy()
    frozen.flags.writeable = False
    assert torch.equal(preprocess.apply(rgb, RULE), preprocess.apply(frozen, RULE))


def test_letterboxing_keeps_the_whole_image_and_pads_with_grey() -> None:
    rule = InputRule(size=64, resize=64, fit="letterbox", mean=(0, 0, 0), std=(1, 1, 1), scale=1.0)
    image = preprocess.apply(np.full((50, 100, 3), 200, np.uint8), rule)
    assert image.shape == (3, 32, 64)
    assert image.unique().tolist() == [200]
    image = preprocess.apply(np.full((60, 100, 3), 200, np.uint8), rule)
    assert image.shape == (3, 64, 64)
    assert image[:, :38].unique().tolist() == [200]
    assert image[:, 38:].unique().tolist() == [114]


def test_channel_order_scale_mean_and_std_are_the_rule_s() -> None:
    rule = InputRule(size=50, resize=50, mean=(1, 2, 3), std=(2, 2, 2), channel_order="BGR", scale=1.0)
    image = preprocess.apply(np.full((50, 50, 3), (10, 20, 30), np.uint8), rule)
    assert image[:, 0, 0].tolist() == [(30 - 1) / 2, (20 - 2) / 2, (10 - 3) / 2]


def test_a_file_gives_the_same_input_as_its_pixels() -> None:
    out = BytesIO()
    Image.fromarray(gradient(200, 100)).save(out, "PNG")
    assert torch.equal(preprocess.load(out.getvalue(), RULE), preprocess.apply(gradient(200, 100), RULE))


def test_an_augmented_view_depends_on_the_generator_alone() -> None:
    rgb = gradient(300, 200)
    first = preprocess.augment(rgb, RULE, Augmentation(), generator(1))
    torch.rand(7)  # the global generator must not matter
    assert torch.equal(first, preprocess.augment(rgb, RULE, Augmentation(), generator(1)))
    assert not torch.equal(first, preprocess.augment(rgb, RULE, Augmentation(), generator(2)))
    assert first.shape == (3, 224, 224)
    assert first.isfinite().all()


def test_an_augmentation_of_zeros_is_the_image_itself() -> None:
    rgb = gradient(256, 256)
    nothing = Augmentation(min_area=1, max_aspect=1, flip=0, brightness=0, contrast=0, saturation=0, hue=0)
    rule = InputRule(size=224, resize=224)
    step = rule.scale / min(rule.std)  # torchvision resizes views, and may round a sample differently
    view = preprocess.augment(rgb, rule, nothing, generator(0))
    torch.testing.assert_close(view, preprocess.apply(rgb, rule), atol=1.01 * step, rtol=0)


def jittered(**strength: float) -> torch.Tensor:
    still = Augmentation(min_area=1, max_aspect=1, flip=0, brightness=0, contrast=0, saturation=0, hue=0)
    rule = InputRule(size=64, resize=64, mean=(0, 0, 0), std=(1, 1, 1), scale=1.0)
    sample_image = np.full((64, 64, 3), (100, 60, 140), np.uint8)
    sample_image[:, 32:] = (60, 100, 20)
    return preprocess.augment(sample_image, rule, dataclasses.replace(still, **strength), generator(3))


def test_each_kind_of_jitter_changes_only_what_it_is_named_after() -> None:
    still = jittered()
    luma = torch.tensor([0.299, 0.587, 0.114])
    factors = jittered(brightness=0.3) / still
    assert factors.unique().numel() >= 1
    assert (factors - factors.mean()).abs().max() < 1e-4
    assert 0.7 <= factors.mean() <= 1.3
    for chroma in (jittered(saturation=0.5), jittered(hue=0.05)):
        assert not torch.allclose(chroma, still, atol=1)
        torch.testing.assert_close(luma @ chroma.flatten(1), luma @ still.flatten(1), atol=0.5, rtol=0)
    contrast = jittered(contrast=0.3)
    assert not torch.allclose(contrast, still, atol=1)
    torch.testing.assert_close(luma @ contrast.mean(dim=(1, 2)), luma @ still.mean(dim=(1, 2)), atol=0.1, rtol=0)


def test_flips_have_the_given_probability() -> None:
    rgb = gradient(64, 64)
    rule = InputRule(size=64, resize=64)
    always = Augmentation(min_area=1, max_aspect=1, flip=1, brightness=0, contrast=0, saturation=0, hue=0)
    flipped = preprocess.augment(rgb, rule, always, generator(0))
    assert torch.equal(flipped, preprocess.apply(rgb, rule).flip(2))


@pytest.mark.parametrize(("width", "height"), [(50, 50), (1, 300), (2000, 50)])
def test_images_of_extreme_shape_can_be_augmented(width: int, height: int) -> None:
    for seed in range(5):
        view = preprocess.augment(gradient(width, height), RULE, Augmentation(), generator(seed))
        assert view.shape == (3, 224, 224)


def test_fixed_views_begin_with_the_served_one_and_are_repeatable() -> None:
    rgb = gradient(300, 200)
    views = [preprocess.view(rgb, RULE, index) for index in range(4)]
    assert torch.equal(views[0], preprocess.apply(rgb, RULE))
    assert (views[1] - views[0].flip(2)).abs().max() < 0.05
    assert torch.equal(views[3], preprocess.view(rgb, RULE, 3))
    assert not torch.equal(views[2], views[3])


def test_the_size_suits_pretrained_weights_or_for_random_ones_the_images() -> None:
    assert input_size(True, 224, [64, 64]) == 256
    assert input_size(False, 224, [64, 64, 500]) == 64
    assert input_size(False, 224, [20]) == 64
    assert input_size(False, 224, [100]) == 128
    assert input_size(False, 224, [4000]) == 224
    assert input_size(False, 224, []) == 256


def test_a_rule_at_another_size_keeps_its_margin() -> None:
    assert (RULE.resized(64).size, RULE.resized(64).resize) == (64, 73)
    assert RULE.at_least == 512
    assert InputRule(size=224, resize=232).at_least == 512
    assert RULE.resized(64).at_least == 256


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_strip_only_the_middle_is_resized_and_nothing_else_is_kept(turned: bool):
    small = np.random.default_rng(0).integers(0, 256, (25, 1000, 3), np.uint8)
    strip = np.asarray(Image.fromarray(small).resize((4000, 100)))
    rgb = strip.transpose(1, 0, 2) if turned else strip
    middle = np.ascontiguousarray(rgb[1900:2100] if turned else rgb[:, 1900:2100])
    found, expected = (framed(np.ascontiguousarray(each), RULE) for each in (rgb, middle))
    assert np.abs(found.astype(int) - expected).max() <= 3
    assert not isinstance(found.base, np.ndarray), "it is no part of anything larger"


def test_a_crop_keeps_no_more_than_it_shows():
    assert framed(np.zeros((100, 300, 3), np.uint8), RULE).base is None


def test_stretching_keeps_the_whole_image():
    rgb = np.zeros((60, 120, 3), np.uint8)
    rgb[:, :30] = 200  # the left quarter, which a centre crop would lose
    rule = InputRule(size=40, resize=40, fit="stretch", mean=(0, 0, 0), std=(1, 1, 1), scale=1.0)
    image = preprocess.apply(rgb, rule)
    assert image.shape == (3, 40, 40)
    assert image[:, :, :8].min() > 190
    assert image[:, :, 12:].max() < 10
