"""Complete trainings of detectors on small drawn scenes, from random weights."""

from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from services.kit.errors import Diverged, InvalidRequest
from services.trainer.engine.detection import measure
from services.trainer.engine.detection import task as detection
from services.trainer.engine.detection.network import load_network
from services.trainer.engine.detection.task import DetectionTask
from services.trainer.engine.loop import fit
from services.trainer.engine.run import run, train
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Checkpoint, Failed, Message, Offer, Progress, Result, TrainTask
from services.trainer.performance import Performance, Source, TagPerformance
from services.trainer.predictions import DetectorPredictions, read_predictions
from services.trainer.recipe import Depth, Split
from services.vision import bundle
from services.vision.card import UNFITTED_THRESHOLD, WeightsSource
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector, load_detector_weights
from tests.support.detectors import published_transformer
from tests.unit.trainer.engine.scenes import KINDS, SIDE, TINY, detector_recipe, write_scenes
from tests.unit.trainer.engine.shapes import task_for, write_snapshot


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "snapshot")


def _trained(task: TrainTask) -> tuple[Result, list[Message]]:
    said: list[Message] = []
    result = run(task, said.append)
    assert isinstance(result, Result), result
    return result, said


def _failed(task: TrainTask) -> Failed:
    failed = run(task, lambda _: None)
    assert isinstance(failed, Failed)
    return failed


def _weights(result: Result) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(result.bundle_directory) / "weights.safetensors")


def _predictions(result: Result) -> DetectorPredictions:
    found = read_predictions(Path(result.predictions_path).read_bytes())
    assert isinstance(found, DetectorPredictions)
    return found


def test_a_training_ends_with_a_bundle_and_a_complete_result(snapshot):
    result, said = _trained(task_for(snapshot, detector_recipe()))
    detector = bundle.load(Path(result.bundle_directory))
    assert isinstance(detector, Detector)
    assert tuple(category.name for category in detector.card.categories) == KINDS
    assert (detector.card.backbones[0].name, detector.card.backbones[0].rule.size) == (TINY, SIDE)
    assert (result.resolution, result.image_count, result.category_count) == (SIDE, 18, 2)
    assert (result.epochs, result.steps, result.stop_reason) == (2, 6, "converged")
    assert result.performance.source is Source.CROSS_VALIDATION
    assert result.performance.mean_average_precision_50 == result.selection_score
    assert set(result.performance.tag_performance) == set(KINDS)
    assert any("random weights" in warning for warning in result.warnings)
    assert result.boxes is not None
    assert (result.boxes.count, result.boxes.longer_side) == (22, SIDE)
    assert any(isinstance(message, Offer) for message in said)
    assert any(isinstance(message, Progress) and message.phase == "train" for message in said)
    predicted = _predictions(result)
    assert len(predicted.image_ids.array()) == result.performance.image_count
    assert set(predicted.truths.labels.array()) == {0, 1}


def test_the_performance_is_of_the_hold_out_if_every_category_has_enough_images(tmp_path):
    snapshot = write_scenes(tmp_path / "snapshot", 44)
    task = task_for(snapshot, detector_recipe(max_epochs=1), split=Split(holdout_fraction=0.2))
    result, _ = _trained(task)
    assert result.performance.source is Source.HOLD_OUT
    assert result.performance.image_count == pytest.approx(46 / 5, abs=1)


def test_the_loss_falls(snapshot, monkeypatch):
    losses: list[float] = []
    real = fit.step

    def watched(*args):
        losses.append(real(*args))
        return losses[-1]

    monkeypatch.setattr(fit, "step", watched)
    _trained(task_for(snapshot, detector_recipe(max_epochs=24, refit=True, augmentation=0.0, mirror=False)))
    each = losses[fit.PROBES :]
    assert np.mean(each[-12:]) < 0.9 * np.mean(each[:12])


@pytest.mark.parametrize("depth", [Depth.HEAD, Depth.NECK])
def test_frozen_parts_do_not_change_including_their_statistics(snapshot, depth):
    result, _ = _trained(task_for(snapshot, detector_recipe(depth=depth, max_epochs=1), seed=3))
    before, after = build_detector(TINY, 2, seed=3).state_dict(), _weights(result)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    backbone = {name for name in before if name.startswith("backbone.backbone.")}
    neck = {name for name in before if name.startswith("backbone.")} - backbone
    assert not changed & backbone
    assert bool(changed & neck) == (depth is Depth.NECK)
    assert any(name.startswith("head.") for name in changed)


def test_a_detector_is_continued_with_other_categories_and_keeps_what_it_knows_of_those_of_the_same_name(
    snapshot, tmp_path
):
    base, _ = _trained(task_for(snapshot, detector_recipe()))
    later = write_scenes(tmp_path / "later" / "snapshot", names=("ring", KINDS[1], KINDS[0]), seed=2)
    recipe = detector_recipe(pretrained=True, depth=Depth.HEAD, max_epochs=1)
    task = task_for(later, recipe, base_directory=base.bundle_directory)
    network, origin = load_network(task, ("ring", KINDS[1], KINDS[0]))
    before, start = _weights(base), network.state_dict()
    for level in range(3):
        name = f"head.cls_preds.{level}.weight"
        assert torch.equal(start[name][[2, 1]], before[name])
    assert all(torch.equal(start[name], before[name]) for name in start if "cls_preds" not in name)
    assert (origin.weights.source, origin.pretrained) == (WeightsSource.BASE_MODEL, True)
    result, _ = _trained(task)
    after = _weights(result)
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("backbone."))
    assert result.weights_source is WeightsSource.BASE_MODEL
    assert TINY in result.backbones


def test_a_head_on_random_layers_trains_for_one_step_only(snapshot):
    result, _ = _trained(task_for(snapshot, detector_recipe(depth=Depth.HEAD, max_epochs=9)))
    assert (result.steps, result.epochs, result.weights_source) == (1, 0, WeightsSource.RANDOM)
    assert isinstance(bundle.load(Path(result.bundle_directory)), Detector)


def test_a_transformer_trains_from_its_publisher_s_file_and_its_bundle_predicts(snapshot, tmp_path):
    name, folder = "dfine_nano", tmp_path / "weights"
    state = published_transformer(name, tmp_path / "hub")
    folder.mkdir()
    safetensors.torch.save_file(state, folder / f"{name}.safetensors")
    recipe = detector_recipe(backbones=(name,), pretrained=True, max_epochs=1, refit=True, depth=Depth.HEAD)
    task = task_for(snapshot, recipe, weights_directory=str(folder))
    result, _ = _trained(task)
    assert (result.weights_source, result.steps) == (WeightsSource.FOLDER, 4)
    after = _weights(result)
    network = build_detector(name, 2)
    load_detector_weights(network, state)
    backbone = {id(parameter) for parameter in network.parts()[-1].parameters()}
    own = network.named_parameters()
    assert all(torch.equal(parameter, after[key]) for key, parameter in own if id(parameter) in backbone)
    detector = bundle.load(Path(result.bundle_directory))
    assert isinstance(detector, Detector)
    image = detector.prepare_pixels(np.full((SIDE, SIDE, 3), 60, np.uint8), SIDE, SIDE)
    assert len(detector.predict_prepared([image])[0]) > 0


def test_the_backbone_trains_at_its_share_of_the_rate(snapshot):
    changes: dict[float, dict[str, torch.Tensor]] = {}
    before = build_detector(TINY, 2, seed=0).state_dict()
    for share in (1.0, 1e-3):
        result, _ = _trained(task_for(snapshot, detector_recipe(max_epochs=1, backbone_rate=share)))
        changes[share] = {name: (value - before[name]).abs() for name, value in _weights(result).items()}
    kernels = [name for name in before if name.endswith("conv.weight")]
    for name in kernels:
        slower = changes[1e-3][name].mean() / changes[1.0][name].mean()
        assert bool(slower < 0.1) == name.startswith("backbone.backbone."), name


class _Killed(BaseException):
    """Simulates kill -9."""


@pytest.mark.parametrize(
    ("die_at", "refit", "network"),
    [
        (1, False, TINY),
        (3, False, TINY),
        (3, True, TINY),
        pytest.param(3, False, "dfine_nano", marks=pytest.mark.long),
    ],
)
def test_a_killed_training_resumes_to_the_same_bits(snapshot, tmp_path, monkeypatch, die_at, refit, network):
    recipe = detector_recipe(augmentation=0.5, patience=9, refit=refit, backbones=(network,), backbone_rate=0.5)
    base = task_for(snapshot, recipe, checkpoint_seconds=0.0, seed=7)
    planned = fit._planned

    def fixed(training):  # the measured pace varies between runs; a checkpoint keeps it
        return msgspec.structs.replace(planned(training), total_steps=5, validate_every=1)

    monkeypatch.setattr(fit, "_planned", fixed)
    whole = train(base, Session(Meter(timedelta(seconds=300)), lambda _: None))
    seen: list[Checkpoint] = []

    def die(message: Message) -> None:
        if isinstance(message, Checkpoint):
            seen.append(message)
            if message.step == die_at:
                raise _Killed

    for name in ("second", "third"):
        (tmp_path / name).mkdir()
    with pytest.raises(_Killed):
        train(
            msgspec.structs.replace(base, output_directory=str(tmp_path / "second")),
            Session(Meter(timedelta(seconds=300)), die),
        )
    again = msgspec.structs.replace(base, output_directory=str(tmp_path / "third"), checkpoint_path=seen[-1].path)
    resumed = train(again, Session(Meter(timedelta(seconds=300)), lambda _: None))
    assert resumed.steps == whole.steps == 5
    expected, got = _weights(whole), _weights(resumed)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize(("slower_from", "slowness"), [(0, 1.0), (8, 5.0), (20, 3.0)])
def test_a_training_ends_before_its_allowance(snapshot, monkeypatch, slower_from, slowness):
    now, steps = [0.0], [0]
    step, predict, finish = fit.step, DetectionTask.predict, detection.finish

    def work(seconds: float) -> None:
        now[0] += seconds * (slowness if steps[0] > slower_from > 0 else 1.0)

    def slow_step(*args):
        steps[0] += 1
        work(0.5)
        return step(*args)

    def slow_predict(*args):
        work(0.4)
        return predict(*args)

    def slow_finish(*args):
        work(0.8)
        return finish(*args)

    monkeypatch.setattr(fit, "step", slow_step)
    monkeypatch.setattr(DetectionTask, "predict", slow_predict)
    monkeypatch.setattr(detection, "finish", slow_finish)
    session = Session(Meter(timedelta(seconds=20), lambda: now[0]), lambda _: None)
    result = train(task_for(snapshot, detector_recipe(max_epochs=10_000)), session)
    assert result.used <= timedelta(seconds=20)
    assert result.steps >= max(3, slower_from - fit.PROBES)
    assert isinstance(bundle.load(Path(result.bundle_directory)), Detector)


def test_an_allowance_that_cannot_suffice_is_refused_with_a_minimum(snapshot):
    failed = _failed(task_for(snapshot, detector_recipe(), allowance=timedelta(seconds=0.02), charge=20.0))
    assert failed.failure.reason == "notEnoughBudget"
    assert float(failed.failure.metadata["minimum_seconds"]) > 0.4
    assert failed.failure.metadata["budget_seconds"] == "0.4", "as the budget counts it"


def test_a_refit_trains_on_every_image_and_says_that_it_is_unmeasured(snapshot, monkeypatch):
    rows: set[int] = set()
    batches = DetectionTask.batches

    def watched(self, jobs):
        rows.update(row for job in jobs for row in job.rows.tolist())
        return batches(self, jobs)

    monkeypatch.setattr(DetectionTask, "batches", watched)
    before = {KINDS[1]: 0.7}
    result, _ = _trained(task_for(snapshot, detector_recipe(refit=True, max_epochs=3), thresholds=before))
    assert rows == set(range(18))
    assert result.stop_reason == "converged"
    assert (result.selection_score, result.performance.image_count) == (0.0, 0)
    assert result.performance.mean_average_precision_50 is None
    assert any("none to measure" in warning for warning in result.warnings)
    refitted = bundle.load(Path(result.bundle_directory))
    assert isinstance(refitted, Detector)
    assert refitted.card.thresholds == (0.7, 0.7), "of the trial that it repeats, and where that has none the others'"
    assert len(_predictions(result).image_ids.array()) == 0


def test_every_category_has_a_threshold_even_if_unmeasured():
    def of(suggested: dict[str, float | None], before: dict[str, float]) -> tuple[float, ...]:
        tags = {name: TagPerformance(support=1, suggested_threshold=value) for name, value in suggested.items()}
        measured = Performance(source=Source.CROSS_VALIDATION, image_count=9, tag_performance=tags)
        return measure.thresholds(measured, ("a", "b", "c"), before)

    assert of({"a": 0.4, "b": None, "c": 0.2}, {}) == (0.4, pytest.approx(0.3), 0.2)
    assert of({"a": 0.4, "b": None, "c": 0.2}, {"a": 0.9, "b": 0.8}) == (0.4, 0.8, 0.2)
    assert of({}, {}) == of({"a": None, "b": None, "c": None}, {}) == (UNFITTED_THRESHOLD,) * 3


def test_a_refit_reports_the_hold_out_s_performance_if_there_is_one(tmp_path):
    snapshot = write_scenes(tmp_path / "snapshot", 44)
    recipe = detector_recipe(refit=True, max_epochs=1)
    result, _ = _trained(task_for(snapshot, recipe, split=Split(holdout_fraction=0.2)))
    assert result.performance.source is Source.HOLD_OUT
    assert result.selection_score == 0.0


def test_a_few_unreadable_images_are_left_out_and_named(tmp_path):
    snapshot = write_scenes(tmp_path / "snapshot", 40, broken=2)
    result, _ = _trained(task_for(snapshot, detector_recipe(max_epochs=1)))
    assert result.unreadable == ("1.png", "2.png")
    assert any("2 images were left out because they cannot be read" in warning for warning in result.warnings)
    assert not {1, 2} & set(_predictions(result).image_ids.array().tolist())


@pytest.mark.parametrize(("seed", "left"), [(0, 1), (1, 0)])
def test_a_training_survives_without_objects_in_a_part(tmp_path, seed, left):
    """One of two images with an object is unreadable: nothing is left to train on, or to validate on."""
    snapshot = write_scenes(tmp_path / "snapshot", 2, ("disc",), empty=40, broken=1)
    result, _ = _trained(task_for(snapshot, detector_recipe(max_epochs=1), split=Split(seed=seed)))
    validated = len(_predictions(result).truths.labels.array())
    assert validated == left
    assert (result.performance.mean_average_precision_50 is None) == (not validated)
    assert isinstance(bundle.load(Path(result.bundle_directory)), Detector)


def test_many_unreadable_images_are_a_corrupt_dataset(tmp_path):
    failed = _failed(task_for(write_scenes(tmp_path / "snapshot", broken=4), detector_recipe()))
    assert failed.failure.reason == "datasetCorrupt"


def test_a_batch_that_does_not_fit_in_memory_is_halved(snapshot, monkeypatch):
    real = DetectionTask.loss
    sizes: list[int] = []

    def small_only(self, network, inputs, truths):
        assert len(inputs) == len(truths)
        sizes.append(len(inputs))
        if len(inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, network, inputs, truths)

    monkeypatch.setattr(DetectionTask, "loss", small_only)
    _trained(task_for(snapshot, detector_recipe(max_epochs=1)))
    assert sizes[:3] == [4, 2, 1]
    assert set(sizes[3:]) == {1}


def test_a_loss_that_stays_infinite_is_diverged_after_three_retries(snapshot, monkeypatch):
    real, planned = DetectionTask.loss, fit._planned

    def broken(*args):
        loss = real(*args)
        return loss._replace(total=loss.total * float("nan"))

    def plan_then_break(training):
        plan = planned(training)
        monkeypatch.setattr(DetectionTask, "loss", broken)
        return plan

    monkeypatch.setattr(fit, "_planned", plan_then_break)
    with pytest.raises(Diverged) as caught:
        train(task_for(snapshot, detector_recipe()), Session(Meter(timedelta(seconds=300)), lambda _: None))
    assert caught.value.metadata["retries"] == "3"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"backbones": ("nonsense",)}, "recipe.backbones"),
        ({"resolution": 100}, "recipe.resolution"),
        ({"depth": Depth.LAST_STAGES}, "recipe.depth"),
    ],
)
def test_invalid_recipes_are_refused(snapshot, changes, field):
    with pytest.raises(InvalidRequest) as refused:
        train(task_for(snapshot, detector_recipe(**changes)), Session(Meter(timedelta(seconds=9)), lambda _: None))
    assert refused.value.metadata["field"] == field


def test_a_category_in_fewer_than_two_images_is_refused_by_name(tmp_path):
    snapshot = write_scenes(tmp_path / "snapshot", 4, names=("a", "b", "c"), crowd=True)
    failed = _failed(task_for(snapshot, detector_recipe()))
    assert failed.failure.reason == "datasetAnnotationsInvalid"
    assert "c" in failed.failure.message


def test_a_detector_is_not_trained_on_a_classification_snapshot(tmp_path):
    failed = _failed(task_for(write_snapshot(tmp_path / "shapes"), detector_recipe()))
    assert failed.failure.reason == "incorrectModelKind"
