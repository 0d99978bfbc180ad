"""A model of real images is continued with more categories."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from bench.bench_base_model import half_of
from bench.bench_recipes import few
from bench.engine import trained
from bench.snapshots import pack
from services.trainer.recipe import Recipe
from services.vision import bundle
from services.vision.card import WeightsSource
from services.vision.snapshot import AnnotationKind

pytestmark = [pytest.mark.real_data, pytest.mark.weights]

KIND, NETWORK = AnnotationKind.IMAGE_CLASSIFICATION, ("mobilenet_v2",)
HEAD = Recipe(name="head", rung=0, backbones=NETWORK, resolution=96)
TUNING = Recipe(name="tuned", rung=1, backbones=NETWORK, resolution=96, max_epochs=2, learning_rate=3e-4, batch_size=8)


def test_a_classifier_of_satellite_images_is_continued_with_the_categories_that_it_did_not_know(
    tmp_path: Path, test_data: Path, weights_dir: Path
) -> None:
    coco = test_data / "eurosat" / "train.json"
    half = pack(half_of(coco, tmp_path / "coco"), tmp_path / "half", KIND, keep=few(6, 0))
    base = trained(TUNING, half, tmp_path / "base", tmp_path / "base" / "cache", weights_dir, 0)
    whole = pack(coco, tmp_path / "whole", KIND, keep=few(4, 0))
    later = trained(
        HEAD, whole, tmp_path / "later", tmp_path / "later" / "cache", weights_dir, 0, base.bundle_directory
    )
    assert (base.category_count, later.category_count) == (5, 10)
    assert (base.weights_source, later.weights_source) == (WeightsSource.FOLDER, WeightsSource.BASE_MODEL)
    assert later.selection_score > 0.3, "a tenth would be chance"
    before, after = (
        safetensors.torch.load_file(Path(one.bundle_directory) / "weights.safetensors") for one in (base, later)
    )
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("trunks."))
    known = {category.name for category in bundle.load_card(Path(base.bundle_directory)).categories}
    assert known < {category.name for category in bundle.load_card(Path(later.bundle_directory)).categories}
