"""How often answers are right, by confidence."""

from __future__ import annotations

import numpy as np
import pytest

from services.vision.reliability import BINS, ReliabilityBin, calibration_error, reliability


def test_bins_hold_the_mean_confidence_and_the_share_that_is_right_and_empty_ones_are_left_out() -> None:
    bins = reliability(np.array([0.9, 0.5, 0.92, 0.51], np.float32), np.array([True, False, False, True]))
    assert [(one.count, one.right) for one in bins] == [(2, 1), (2, 1)]
    assert [one.mean_confidence for one in bins] == pytest.approx([0.505, 0.91])
    assert [one.accuracy for one in bins] == [0.5, 0.5]
    assert calibration_error(bins) == pytest.approx((0.005 + 0.41) / 2)


def test_an_edge_belongs_to_the_bin_below_and_no_confidence_is_lost() -> None:
    edges = np.linspace(0, 1, BINS + 1)
    bins = reliability(edges, np.ones(BINS + 1, bool))
    assert [one.count for one in bins] == [2, *[1] * (BINS - 1)]  # 0 is in the first bin too
    assert bins[-1] == ReliabilityBin(1.0, 1.0, 1)


def test_without_answers_there_are_no_bins_and_no_error() -> None:
    bins = reliability(np.empty(0), np.empty(0, bool))
    assert bins == ()
    assert calibration_error(bins) == 0.0
