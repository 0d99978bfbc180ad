"""The accuracy to expect: it rises with the images, its interval is honest, and it says nothing of too few images."""

import numpy as np
import pytest

from services.trainer.engine.classification.few_shot import extrapolated
from services.trainer.engine.data import Floats, Indices

CATEGORIES = 4


def features(each: int, distance: float, seed: int = 0) -> tuple[list[Floats], Indices]:
    """Two backbones' features of images whose categories are this far apart, in noise."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CATEGORIES), each)
    centres = np.random.default_rng(99).normal(size=(CATEGORIES, 48))
    rows = distance * centres[labels] + random.normal(size=(len(labels), 48))
    return [rows[:, :24].astype(np.float32), rows[:, 24:].astype(np.float32)], labels


def test_more_images_are_expected_to_help() -> None:
    blocks, labels = features(5, 0.5)
    few, many = (extrapolated(blocks, labels, target, seed=0) for target in (5, 200))
    assert few is not None
    assert many is not None
    assert many.value > few.value
    assert many.interval.high > few.interval.high


@pytest.mark.parametrize("distance", [0.4, 0.7, 1.2])
def test_the_interval_holds_what_a_head_on_many_images_reaches(distance: float) -> None:
    blocks, labels = features(5, distance)
    expected = extrapolated(blocks, labels, 200, seed=0)
    assert expected is not None
    assert expected.interval.low <= expected.value <= expected.interval.high
    more, known = features(204, distance, seed=1)
    rows = np.concatenate(more, axis=1)
    test = np.arange(len(known)) % 204 < 4
    design = np.hstack([rows, np.ones((len(rows), 1), np.float32)])
    weights = np.linalg.lstsq(design[~test], np.eye(CATEGORIES)[known[~test]], rcond=None)[0]
    reached = float((np.argmax(design @ weights, axis=1) == known).mean())
    assert expected.interval.low <= reached <= expected.interval.high + 0.02


def test_random_labels_do_not_promise_more_than_chance() -> None:
    blocks, labels = features(5, 0.0)
    expected = extrapolated(blocks, labels, 100, seed=0)
    assert expected is not None
    assert expected.interval.low <= 1 / CATEGORIES <= expected.interval.high


def test_a_sample_without_mistakes_promises_no_certainty() -> None:
    blocks, labels = features(3, 20.0)
    expected = extrapolated(blocks, labels, 100, seed=0)
    assert expected is not None
    assert expected.interval.low < 0.9


@pytest.mark.parametrize("each", [1, 2])
def test_nothing_is_said_if_no_category_has_three_images(each: int) -> None:
    blocks, labels = features(each, 1.0)
    assert extrapolated(blocks, labels, 50, seed=0) is None


def test_the_seed_decides() -> None:
    blocks, labels = features(4, 0.6)
    assert extrapolated(blocks, labels, 50, seed=1) == extrapolated(blocks, labels, 50, seed=1)
