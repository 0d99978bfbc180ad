"""Wrong labels of real images are among the worst mistakes of a model that is trained on them."""

from pathlib import Path

import pytest

from bench.bench_label_errors import flipped, suspects

pytestmark = [pytest.mark.real_data, pytest.mark.weights]


def test_replaced_labels_are_named_first(tmp_path: Path, test_data: Path, weights_dir: Path) -> None:
    coco, wrong = flipped(test_data / "steel_defects" / "train.json", tmp_path / "coco", 0.05)
    assert len(wrong) == 9
    named = suspects(coco, tmp_path, weights_dir)
    assert len(wrong.intersection(named[:9])) >= 8, "one in twenty would be chance"
