"""A probe measures a ladder's recipes on small samples, by the code of real trials."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from services.trainer.engine import probe as engine
from services.trainer.engine import run
from services.trainer.estimate import Observation
from services.trainer.feature_blocks import passes_of
from services.trainer.messages import Failed, Message, Probed, ProbeTask, Progress, Result, TrainTask
from services.trainer.recipe import Depth, Recipe
from services.vision.card import WeightsSource
from tests.unit.trainer.engine.scenes import detector_recipe, write_scenes
from tests.unit.trainer.engine.shapes import linear_recipe, tuning_recipe, write_snapshot


def task_for(large: Path, small: Path, *recipes: Recipe, per_category: float | None = 30.0) -> ProbeTask:
    root = large.parent
    for name in ("out", "cache"):
        (root / name).mkdir(exist_ok=True)
    return ProbeTask(
        estimate="estimates/e",
        dataset="datasets/d",
        directory=str(large),
        small_directory=str(small),
        index_directory=str(large),
        recipes=recipes,
        images_per_category=per_category,
        output_directory=str(root / "out"),
        cache_directory=str(root / "cache"),
    )


def probed(task: ProbeTask) -> Probed:
    sent: list[Message] = []
    found = run.run(task, sent.append)
    assert isinstance(found, Probed), found
    assert all(isinstance(message, Progress) for message in sent), "checkpoints and offers stay in the child"
    return found


def test_the_head_and_its_expected_accuracy_are_measured(tmp_path: Path) -> None:
    large = write_snapshot(tmp_path / "large", per_category=5)
    found = probed(task_for(large, large, linear_recipe())).probe
    (head,) = found.observations
    assert (head.image_count, found.device) == (15, "cpu, 1 thread")
    assert 0 < head.scaling_seconds <= head.seconds
    assert head.expectation is not None
    assert head.expectation.interval.low < head.expectation.interval.high


def test_a_probe_reads_features_as_the_training_will(tmp_path: Path, graphs: Path) -> None:
    large = write_snapshot(tmp_path / "large", per_category=3)
    task = task_for(large, large, linear_recipe(backbones=("mobilenet_v2",)))
    assert probed(replace(task, graphs_directory=str(graphs))).probe.by_graph
    assert not probed(replace(task, cache_directory=str(tmp_path))).probe.by_graph


def test_the_first_recipe_gets_the_large_sample_and_the_others_the_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_is_random", lambda result: False)
    large, small = write_snapshot(tmp_path / "large", per_category=5), write_snapshot(tmp_path / "small", 4, seed=1)
    found = probed(task_for(large, small, linear_recipe(), linear_recipe(views=2), tuning_recipe(max_epochs=9))).probe
    assert [seen.image_count for seen in found.observations] == [15, 12, 12]
    assert [seen.expectation is not None for seen in found.observations] == [True, False, False]
    assert found.observations[2].recipe.max_epochs == engine.EPOCHS


def test_without_pretrained_weights_one_recipe_is_enough(tmp_path: Path) -> None:
    large = write_snapshot(tmp_path / "large", per_category=3)
    found = probed(task_for(large, large, linear_recipe(), linear_recipe(views=2))).probe
    assert len(found.observations) == 1
    assert found.weights_source is WeightsSource.RANDOM


def test_a_probe_that_has_taken_long_tries_no_further_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_is_random", lambda result: False)
    monkeypatch.setattr(engine, "ENOUGH_SECONDS", 0.0)
    large = write_snapshot(tmp_path / "large", per_category=3)
    assert len(probed(task_for(large, large, linear_recipe(), linear_recipe(views=2))).probe.observations) == 1


def test_a_sample_that_lacks_categories_promises_no_accuracy(tmp_path: Path) -> None:
    large = write_snapshot(tmp_path / "large", per_category=5)
    found = probed(task_for(large, large, linear_recipe(), per_category=None)).probe
    assert found.observations[0].expectation is None


def test_features_that_are_stored_are_told_by_the_names_of_their_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_is_random", lambda result: False)
    large = write_snapshot(tmp_path / "large", per_category=5)
    plain, mirrored = linear_recipe(), linear_recipe(views=2)
    task = task_for(large, large, plain, mirrored)
    assert probed(task).probe.stored == ()
    cache = Path(task.cache_directory) / "features"
    blocks = [str(path.relative_to(next(cache.iterdir()))) for path in cache.rglob("*") if path.is_file()]
    assert len(blocks) == 2
    found = probed(replace(task, stored_blocks=tuple(blocks))).probe
    assert set(found.stored) == passes_of(replace(mirrored, pretrained=True))
    (first,) = [block for block in blocks if "view-0" in block]
    half = probed(replace(task, stored_blocks=(first, "of/another/network"))).probe
    assert [each.view for each in half.stored] == [0]


def test_a_probe_that_reads_features_of_an_earlier_one_counts_what_that_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_is_random", lambda result: False)
    large = write_snapshot(tmp_path / "large", per_category=5)
    saved: list[float] = []
    observed = engine._observed

    def noted(task: TrainTask, train: engine.Train) -> tuple[Observation, Result]:
        seen, result = observed(task, train)
        assert result.features is not None
        saved.append(result.features.saved.total_seconds())
        assert seen.seconds >= seen.scaling_seconds >= saved[-1]
        return seen, result

    monkeypatch.setattr(engine, "_observed", noted)
    probed(task_for(large, large, linear_recipe(), linear_recipe(views=2)))
    assert saved[0] == 0 < saved[1]


def test_a_detector_is_measured_with_the_boxes_of_the_whole_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_is_random", lambda result: False)
    whole, small = write_scenes(tmp_path / "whole", count=24), write_scenes(tmp_path / "small", count=10, empty=0)
    head = detector_recipe(rung=0, depth=Depth.HEAD, linear_head=True)
    task = task_for(whole, small, head, detector_recipe(max_epochs=7), per_category=None)
    found = probed(task).probe
    assert found.boxes is not None
    assert found.boxes.count == 32
    assert found.observations[1].image_count == 10
    assert 0 < found.observations[1].scaling_seconds < found.observations[1].seconds


def test_a_broken_sample_is_a_named_failure(tmp_path: Path) -> None:
    large = write_snapshot(tmp_path / "large", per_category=4, broken=6)
    failed = run.run(task_for(large, large, linear_recipe()), lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "datasetCorrupt"
