"""Last stages tuned on stored maps: the schedule, the folds, and whole tasks on drawn images."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from services.kit.errors import Diverged, NotEnoughBudget
from services.trainer.engine import pretrained as pretrained_networks
from services.trainer.engine.classification import stage_maps, tuned_stages
from services.trainer.engine.classification.heads import LinearHead
from services.trainer.engine.classification.stage_maps import store_maps
from services.trainer.engine.classification.stage_schedule import Costs, Schedule, StepClock, schedule
from services.trainer.engine.classification.stage_tuning import StageTuning
from services.trainer.engine.data import open_images
from services.trainer.engine.pretrained import load_backbones
from services.trainer.engine.run import run
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Failed, Message, Progress, Result, TrainTask, has_checkpoints
from services.trainer.performance import Source
from services.trainer.predictions import Predictions, read_predictions
from services.trainer.recipe import Depth, Framing, Recipe, Split
from services.vision import bundle, preprocess
from services.vision.backbones import build
from services.vision.card import WeightsSource
from services.vision.classifier import Classifier
from services.vision.weights import PretrainedWeights
from tests.unit.trainer.engine.shapes import task_for, tuning_recipe, write_snapshot

COSTS = Costs(step_seconds=0.1, head_seconds=0.5, end_seconds=1.0, fold_steps=8, all_steps=10)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _pretrained(monkeypatch) -> None:
    """Random weights that pass for pretrained ones."""

    def network(name, categories, _resolver, *, seed):
        return build(name, categories, seed=seed), PretrainedWeights({}, WeightsSource.FOLDER, "0" * 64, "")

    monkeypatch.setattr(pretrained_networks, "pretrained_network", network)


@pytest.fixture
def snapshot(tmp_path) -> Path:
    return write_snapshot(tmp_path / "snapshot")


def stages_recipe(**changes: object) -> Recipe:
    settings = {"pretrained": True, "stored_maps": True, "depth": Depth.LAST_STAGES, "resolution": 64, "min_epochs": 1}
    return tuning_recipe(**{**settings, **changes})


def trained(task: TrainTask) -> tuple[Result, list[Message]]:
    said: list[Message] = []
    result = run(task, said.append)
    assert isinstance(result, Result), result
    return result, said


def tuning_of(task: TrainTask) -> StageTuning:
    images = open_images(Path(task.directory), "d")
    backbone = load_backbones(task, images)[0]
    session = Session(Meter(task.allowance), lambda _: None)
    maps = store_maps(task, session, images, backbone, (0.0, 1.0))
    return StageTuning(task, backbone.network.eval(), maps, images.labels, lambda: None)


def zero_head(width: int) -> LinearHead:
    return LinearHead(
        np.zeros((3, width), np.float32), np.zeros(3, np.float32), np.empty((0, 3), np.float32), np.empty(0, np.bool_)
    )


@pytest.mark.parametrize(
    ("allowance", "planned"),
    [(1000, Schedule(5, 12)), (64, Schedule(4, 12)), (28, Schedule(1, 12)), (20, Schedule(1, 8))],
)
def test_short_of_time_fewer_folds_are_predicted_then_epochs_are_fewer(tmp_path, allowance, planned) -> None:
    task = task_for(tmp_path / "s", stages_recipe(max_epochs=12), allowance=timedelta(seconds=allowance))
    assert schedule(task, COSTS, Meter(task.allowance, lambda: 0.0), folds=5, images=100) == planned
    took = planned.folds * COSTS.fold_seconds(planned.epochs) + COSTS.rest_seconds(planned.epochs)
    assert took < allowance


def test_without_time_for_the_fewest_epochs_nothing_is_tuned(tmp_path) -> None:
    task = task_for(tmp_path / "s", stages_recipe(max_epochs=12, min_epochs=9), allowance=timedelta(seconds=20))
    with pytest.raises(NotEnoughBudget):
        schedule(task, COSTS, Meter(task.allowance, lambda: 0.0), folds=5, images=100)


def test_a_step_that_leaves_no_time_for_the_result_ends_the_trial(tmp_path) -> None:
    times = iter([0.0, 1.0, 1.0, 9.5, 9.5])
    task = task_for(tmp_path / "s", stages_recipe(), allowance=timedelta(seconds=10))
    session = Session(Meter(task.allowance, lambda: next(times, 9.5)), lambda _: None)
    clock = StepClock(task, session, 100, (0.0, 1.0), end_seconds=1.0)
    clock.stepped()
    with pytest.raises(NotEnoughBudget):
        clock.stepped()


def test_every_image_is_predicted_by_a_network_that_was_tuned_without_it(snapshot) -> None:
    result, said = trained(task_for(snapshot, stages_recipe()))
    assert len(selected(result)) == 36
    assert result.performance.source is Source.CROSS_VALIDATION
    assert (result.epochs, result.stop_reason) == (3, "converged")
    fractions = [message.fraction for message in said if isinstance(message, Progress)]
    assert all(earlier <= later for earlier, later in pairwise(fractions))


@pytest.mark.parametrize("tuned_resolution", [0, 96])
def test_the_bundle_answers_as_the_blend_does(snapshot, monkeypatch, tuned_resolution) -> None:
    """In a hold-out, whose logits are computed from maps and features; the bundle sees the images themselves."""
    big = write_snapshot(snapshot.parent / "big", per_category=20)
    noted: list[np.ndarray] = []
    finish = tuned_stages.finish

    def noting(task, session, images, finished, directory):
        noted.append(finished.held_out_logits)
        return finish(task, session, images, finished, directory)

    monkeypatch.setattr(tuned_stages, "finish", noting)
    monkeypatch.setattr("services.trainer.engine.classification.companion.SHARES", (0.5,))
    recipe = stages_recipe(
        framings=(Framing.STRETCH, Framing.CROP), views=2, max_epochs=1, tuned_resolution=tuned_resolution
    )
    result, _ = trained(task_for(big, recipe, split=Split(holdout_fraction=0.2)))
    classifier = bundle.load(Path(result.bundle_directory), "cpu")
    assert isinstance(classifier, Classifier)
    assert [one.rule.size for one in classifier.card.backbones] == [tuned_resolution or 64, 64, 64]
    images = open_images(big, "d")
    held_out = [row for row in range(60) if images.samples[row].record.image_id not in selected(result)]
    inputs = [classifier.prepare(images.read(row)) for row in held_out]
    expected = torch.softmax(torch.from_numpy(noted[0]), dim=1).numpy()
    np.testing.assert_allclose(classifier.predict_prepared(inputs), expected, atol=2e-2)


def selected(result: Result) -> set[int]:
    found = read_predictions(Path(result.predictions_path).read_bytes())
    assert isinstance(found, Predictions)
    return set(found.image_ids)


def test_the_same_task_gives_the_same_bundle(snapshot, tmp_path) -> None:
    files: list[bytes] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        result, _ = trained(task_for(snapshot, stages_recipe(), output_directory=str(tmp_path / name), seed=3))
        files.append((Path(result.bundle_directory) / "weights.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_tuning_does_not_see_other_rows(snapshot) -> None:
    tuning = tuning_of(task_for(snapshot, stages_recipe()))
    rows, others = np.arange(24), np.arange(24, 36)
    head = zero_head(tuning.network.backbone.feature_dim)
    before = tuning.trained(rows, head, 2)
    tuning.labels[others] = 0
    for view in tuning.maps.views:
        view[others] = 0
    after = tuning.trained(rows, head, 2)
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), after.parameters(), strict=True))


def test_only_the_head_and_the_last_stages_change(snapshot) -> None:
    tuning = tuning_of(task_for(snapshot, stages_recipe()))
    after = tuning.trained(np.arange(36), zero_head(tuning.network.backbone.feature_dim), 1).state_dict()
    changed = {name for name, old in tuning.network.state_dict().items() if not torch.equal(old, after[name])}
    assert "head.weight" in changed
    children = {int(name.split(".")[1]) for name in changed if name.startswith("features.")}
    assert min(children) >= tuning.maps.start
    assert not any("running" in name for name in changed)


def test_maps_and_the_stages_after_them_are_the_whole_network(snapshot) -> None:
    task = task_for(snapshot, stages_recipe())
    tuning = tuning_of(task)
    images = open_images(snapshot, "d")
    rule = load_backbones(task, images)[0].rule
    pixels = [images.pixels(row, rule.at_least) for row in range(6)]
    inputs = torch.stack([preprocess.apply(each, rule) for each in pixels if each is not None])
    tuning.network.normalised = True
    with torch.inference_mode():
        expected = tuning.network(inputs).numpy()
    np.testing.assert_allclose(tuning.logits(tuning.network, np.arange(6)), expected, atol=5e-3)


def test_fewer_views_are_kept_where_memory_is_short(snapshot, monkeypatch) -> None:
    monkeypatch.setattr(stage_maps, "kept_bytes", lambda task: 0)
    assert len(tuning_of(task_for(snapshot, stages_recipe())).maps.views) == stage_maps.LEAST_VIEWS


def test_a_loss_that_is_not_finite_is_an_error_with_its_step(snapshot) -> None:
    tuning = tuning_of(task_for(snapshot, stages_recipe()))
    for view in tuning.maps.views:
        view[:] = np.nan
    with pytest.raises(Diverged, match="at step 0"):
        tuning.trained(np.arange(36), zero_head(tuning.network.backbone.feature_dim), 1)


def test_an_unreadable_image_is_left_out(tmp_path) -> None:
    snapshot = write_snapshot(tmp_path / "snapshot", broken=1)
    result, _ = trained(task_for(snapshot, stages_recipe()))
    assert len(result.unreadable) == 1
    assert 1 not in selected(result)


def test_without_pretrained_weights_the_error_names_the_field(snapshot) -> None:
    answer = run(task_for(snapshot, stages_recipe(pretrained=False)), lambda _: None)
    assert isinstance(answer, Failed)
    assert answer.failure.metadata["field"] == "recipe.stored_maps"


def test_a_tuning_of_last_stages_starts_over_after_a_kill(snapshot) -> None:
    assert not has_checkpoints(task_for(snapshot, stages_recipe()))
    assert has_checkpoints(task_for(snapshot, replace(stages_recipe(), stored_maps=False)))
