"""Scenes: how they are partitioned, and their training batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from services.trainer.engine.detection.batches import SceneBatches
from services.trainer.engine.detection.data import Scenes, open_scenes
from services.trainer.engine.detection.split import divide
from services.trainer.engine.loop.task import BatchRequest
from services.trainer.recipe import Split
from services.vision.canvas import fitting_canvas, variation
from services.vision.catalogue import DETECTORS
from tests.unit.trainer.engine.scenes import SIDE, TINY, write_scenes

NAMES = ("often", "sometimes", "rare")


def _scenes(tmp_path: Path, **changes: object) -> Scenes:
    return open_scenes(write_scenes(tmp_path / "snapshot", **changes), "datasets/d")  # pyright: ignore[reportArgumentType] - any of its parameters


def _batches(scenes: Scenes, strength: float = 0.0) -> SceneBatches:
    return SceneBatches(
        scenes=scenes,
        rule=DETECTORS[TINY].rule.resized(SIDE),
        canvas=fitting_canvas(scenes.sizes(np.arange(len(scenes.samples))), SIDE),
        how=variation(strength, mirror=strength > 0),
        seed=5,
        threads=1,
        kept_bytes=1 << 24,
    )


def test_every_category_is_in_every_fold_and_negatives_are_spread(tmp_path):
    scenes = _scenes(tmp_path, count=60, names=NAMES, empty=10)
    partition = divide(scenes, Split(seed=4, folds=5))
    assert len(partition.held_out) == 0
    for fold in range(5):
        rows = partition.trainable[partition.fold == fold].tolist()
        assert len(rows) == 14
        assert set(np.concatenate([scenes.categories_in(row) for row in rows])) == {0, 1, 2}
        assert sum(len(scenes.categories_in(row)) == 0 for row in rows) == 2


def test_there_is_a_hold_out_only_if_every_category_has_twenty_images(tmp_path):
    split = Split(holdout_fraction=0.2)
    few, enough = _scenes(tmp_path / "few", count=26), _scenes(tmp_path / "enough", count=40)
    assert len(divide(few, split).held_out) == 0
    partition = divide(enough, split)
    assert 7 <= len(partition.held_out) <= 10
    assert not set(partition.held_out.tolist()) & set(partition.trainable.tolist())
    again = divide(enough, split)
    assert np.array_equal(again.fold, partition.fold)
    assert np.array_equal(again.held_out, partition.held_out)


@pytest.mark.parametrize("fraction", [0.2, 0.4])
def test_the_held_out_share_is_about_the_requested_one(tmp_path, fraction):
    parts = divide(_scenes(tmp_path, count=60), Split(holdout_fraction=fraction))
    assert len(parts.held_out) == pytest.approx(fraction * (len(parts.held_out) + len(parts.trainable)), abs=2)


def test_near_duplicates_of_the_snapshot_are_on_one_side(tmp_path):
    scenes = _scenes(tmp_path, count=60, names=NAMES, empty=10)
    ids: list[int] = scenes.ids.tolist()
    negatives = dict.fromkeys(ids[60:], ids[60])
    scenes.first_alike = {ids[row]: ids[row - row % 3] for row in range(60)} | negatives
    for split in (Split(seed=4, folds=5), Split(seed=1, folds=4, holdout_fraction=0.2)):
        partition = divide(scenes, split)
        part = np.full(70, -1)
        part[partition.trainable] = partition.fold
        assert all(len(set(part[row : row + 3])) == 1 for row in range(0, 60, 3))
        assert len(set(part[60:])) == 1
        for fold in range(partition.folds):
            rows = np.flatnonzero(part == fold).tolist()
            assert set(np.concatenate([scenes.categories_in(row) for row in rows])) == {0, 1, 2}


def test_a_category_whose_images_are_all_alike_is_in_every_fold(tmp_path):
    scenes = _scenes(tmp_path, count=20, names=("a", "b"), empty=0)
    ids: list[int] = scenes.ids.tolist()
    scenes.first_alike = dict.fromkeys(ids, 1)
    partition = divide(scenes, Split(seed=4, folds=5))
    for fold in range(5):
        rows = partition.trainable[partition.fold == fold].tolist()
        assert set(np.concatenate([scenes.categories_in(row) for row in rows])) == {0, 1}


def test_a_refit_has_no_first_fold(tmp_path):
    partition = divide(_scenes(tmp_path), Split(), refit=True)
    assert len(partition.first_fold) == 0
    assert len(partition.other_folds) == 18


def test_two_images_of_a_category_never_share_a_fold(tmp_path):
    scenes = _scenes(tmp_path, count=4, names=("a", "b"), empty=0)
    for seed in range(20):
        partition = divide(scenes, Split(seed=seed))
        for fold in range(2):
            rows = partition.trainable[partition.fold == fold].tolist()
            assert set(np.concatenate([scenes.categories_in(row) for row in rows])) == {0, 1}


def test_a_batch_depends_only_on_seed_and_epoch(tmp_path):
    scenes = _scenes(tmp_path)
    requests = [BatchRequest(step // 2, np.arange(4) + step) for step in range(4)]
    whole = list(_batches(scenes, 0.5).training(requests))
    later = list(_batches(scenes, 0.5).training(requests[2:]))
    for (inputs, targets), (again, same) in zip(whole[2:], later, strict=True):
        assert torch.equal(inputs, again)
        assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(targets, same, strict=True))
    assert all(side % 32 == 0 for inputs, _ in whole for side in inputs.shape[2:])


def test_targets_are_where_the_shapes_are_and_crowds_are_not_in_them(tmp_path):
    scenes = _scenes(tmp_path, crowd=True, sizes=((SIDE, SIDE),))
    ((inputs, targets),) = _batches(scenes).training([BatchRequest(0, np.array([0, 1, 17]))])
    record = scenes.samples[0].record
    assert len(record.boxes) == 2
    (box,) = (box for box in record.boxes if not box.iscrowd)
    expected = torch.tensor([[box.x, box.y, box.x + box.w, box.y + box.h]])
    assert torch.allclose(targets[0].boxes, expected, atol=1.0)
    assert targets[0].labels.tolist() == [box.category]
    assert len(targets[2].boxes) == 0
    (found,) = targets[1].boxes
    left, top, right, bottom = (int(value) for value in found.round())
    inside = inputs[1, :, (top + bottom) // 2, (left + right) // 2]
    assert float(inside.max()) > 200
    truth = scenes.truths(np.array([0, 1]))
    assert truth.crowds.tolist() == [True, False, False]
