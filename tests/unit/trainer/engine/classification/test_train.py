"""Whole tasks of the engine on small drawn images, without pretrained weights."""

from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from services.kit.errors import Diverged
from services.trainer.engine import pretrained as pretrained_networks
from services.trainer.engine.classification import features, linear_head
from services.trainer.engine.classification.linear_head import curve_limit, train_head
from services.trainer.engine.loop import fit, step
from services.trainer.engine.run import run, train
from services.trainer.engine.session import Meter, Session
from services.trainer.feature_blocks import FeatureUse
from services.trainer.messages import (
    Checkpoint,
    EvaluateTask,
    EvaluationResult,
    Failed,
    Message,
    Offer,
    Progress,
    Result,
    TrainTask,
)
from services.trainer.performance import Coverage, Source, UnknownCategory
from services.trainer.prediction_cost import recipe_seconds
from services.trainer.predictions import Predictions, read_predictions
from services.trainer.recipe import Depth, Framing, Recipe, Split
from services.vision import bundle
from services.vision.backbones import build
from services.vision.card import WeightsSource
from services.vision.classification_metrics import classification_report
from services.vision.snapshot import AnnotationKind
from services.vision.weights import PretrainedWeights
from tests.unit.trainer.engine.scenes import detector_recipe, write_scenes
from tests.unit.trainer.engine.shapes import SHAPES, SIDES, TINY, linear_recipe, task_for, tuning_recipe, write_snapshot

WHOLE_AND_BROKEN = (("whole", 0), ("broken", 1))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def snapshot(tmp_path) -> Path:
    return write_snapshot(tmp_path / "snapshot")


@pytest.fixture
def pretrained(monkeypatch) -> None:
    """Random weights that pass for pretrained ones."""

    def network(name, categories, _resolver, *, seed):
        weights = PretrainedWeights({}, WeightsSource.FOLDER, "0" * 64, "")
        return build(name, categories, seed=seed), weights

    monkeypatch.setattr(pretrained_networks, "pretrained_network", network)


def _run(task: TrainTask | EvaluateTask) -> tuple[Message, list[Message]]:
    said: list[Message] = []
    return run(task, said.append), said


def _trained(task: TrainTask) -> tuple[Result, list[Message]]:
    result, said = _run(task)
    assert isinstance(result, Result), result
    return result, said


def _evaluated(snapshot: Path, trained: Result) -> EvaluationResult:
    """On the images that it was trained on, most of which it should recognise."""
    task = EvaluateTask(
        evaluation="models/m/evaluations/e",
        dataset="datasets/d",
        bundle_directory=trained.bundle_directory,
        directory=str(snapshot),
        output_directory=str(snapshot.parent / "evaluated"),
    )
    measured, _ = _run(task)
    assert isinstance(measured, EvaluationResult), measured
    assert measured.performance.accuracy_top1 is not None
    assert measured.performance.accuracy_top1 > 0.6
    return measured


def _classified(result: Result | EvaluationResult) -> Predictions:
    predictions = read_predictions(Path(result.predictions_path).read_bytes())
    assert isinstance(predictions, Predictions)
    return predictions


def _weights(result: Result) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(result.bundle_directory) / "weights.safetensors")


def _assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_rung_0_ends_with_a_bundle_that_predicts_what_it_says(snapshot):
    result, said = _trained(task_for(snapshot, linear_recipe()))
    fractions = [message.fraction for message in said if isinstance(message, Progress)]
    assert fractions == sorted(fractions)
    assert result.selection_score > 0.4  # a third would be chance
    assert result.performance.source is Source.CROSS_VALIDATION
    assert result.weights_source == WeightsSource.RANDOM
    assert any("random weights" in warning for warning in result.warnings)
    classifier = bundle.load(Path(result.bundle_directory))
    assert tuple(category.name for category in classifier.card.categories) == SHAPES
    assert len(classifier.card.thresholds) == 3
    predictions = _classified(result)
    assert predictions.image_ids == tuple(range(1, 37))
    assert np.mean(predictions.correct) == pytest.approx(result.selection_score)


def test_rung_0_joins_several_backbones_and_views(snapshot):
    recipe = linear_recipe(backbones=("mobilenet_v3_small", "squeezenet1_1"), views=2, resolution=64)
    result, _ = _trained(task_for(snapshot, recipe))
    assert len(bundle.load_card(Path(result.bundle_directory)).backbones) == 2
    assert result.resolution == 64


def test_a_head_learns_from_mirrored_views_unless_plain_ones_do_better_and_there_is_time(tmp_path, monkeypatch):
    sides = write_snapshot(tmp_path / "sides", names=SIDES)
    plain, _ = _trained(task_for(sides, linear_recipe()))
    both, _ = _trained(task_for(sides, linear_recipe(views=2)))
    assert not both.mirror
    _assert_equal(_weights(both), _weights(plain))
    assert both.selection_score == plain.selection_score
    monkeypatch.setattr(linear_head, "UNMIRRORED_REST", 1e6)
    hurried, _ = _trained(task_for(sides, linear_recipe(views=2)))
    assert not hurried.mirror
    assert hurried.selection_score < plain.selection_score


def test_rung_0_reads_both_framings_of_a_network_that_is_stored_once(snapshot, pretrained):
    recipe = linear_recipe(pretrained=True, framings=(Framing.STRETCH, Framing.CROP), views=2, resolution=64)
    result, _ = _trained(task_for(snapshot, recipe))
    whole, middle = bundle.load_card(Path(result.bundle_directory)).backbones
    assert (whole.rule.fit, whole.shares, middle.rule.fit, middle.shares) == ("stretch", None, "crop", 0)
    assert not any(name.startswith("trunks.1.") for name in _weights(result))
    _evaluated(snapshot, result)


def test_a_fine_tuned_network_ships_blended_with_the_heads_on_frozen_ones(snapshot, pretrained):
    recipe = tuning_recipe(pretrained=True, linear_head=True, framings=(Framing.STRETCH, Framing.CROP))
    result, _ = _trained(task_for(snapshot, recipe))
    card = bundle.load_card(Path(result.bundle_directory))
    assert [(backbone.rule.fit, backbone.shares) for backbone in card.backbones] == [
        ("stretch", None),
        ("stretch", None),
        ("crop", 1),
    ]
    assert all(backbone.normalised for backbone in card.backbones)
    weights = _weights(result)
    tuned, frozen = (weights[f"trunks.{trunk}.features.0.0.weight"] for trunk in (0, 1))
    assert not torch.equal(tuned, frozen)
    _evaluated(snapshot, result)


def test_a_network_without_weights_is_replaced_by_one_that_has_them(snapshot, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    safetensors.torch.save_file(state, folder / "squeezenet1_1.safetensors")
    framings = (Framing.STRETCH, Framing.CROP)
    recipe = linear_recipe(pretrained=True, backbones=("mobilenet_v3_small", "resnet18"), framings=framings)
    task = msgspec.structs.replace(task_for(snapshot, recipe), weights_directory=str(folder))
    result, _ = _trained(task)
    backbones = bundle.load_card(Path(result.bundle_directory)).backbones
    assert len(backbones) == 2  # the framings of the one network
    assert all((each.name, each.weights_source) == ("squeezenet1_1", WeightsSource.FOLDER) for each in backbones)
    assert sum("squeezenet1_1 took its place" in warning for warning in result.warnings) == 1


@pytest.mark.parametrize("framings", [(Framing.STRETCH,), (Framing.STRETCH, Framing.CROP)])
@pytest.mark.parametrize("resolution", [0, 64])
@pytest.mark.parametrize("make", [linear_recipe, tuning_recipe])
def test_a_result_says_what_a_prediction_costs_as_its_recipe_did(snapshot, pretrained, make, framings, resolution):
    recipe = make(pretrained=True, framings=framings, resolution=resolution, max_epochs=2)
    result, _ = _trained(task_for(snapshot, recipe))
    assert result.prediction_seconds == pytest.approx(recipe_seconds(recipe))
    card = bundle.load_card(Path(result.bundle_directory))
    assert len(card.backbones) == len(framings) + recipe.rung


def test_a_network_that_takes_anothers_place_keeps_to_the_limit_of_a_predictions_cost(snapshot, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    safetensors.torch.save_file(state, folder / "squeezenet1_1.safetensors")
    used: dict[float, set[str]] = {}
    for limit in (0.02, 0.011):
        recipe = linear_recipe(pretrained=True, backbones=("mobilenet_v3_small",), max_prediction_seconds=limit)
        task = msgspec.structs.replace(task_for(snapshot, recipe), weights_directory=str(folder))
        result, _ = _trained(task)
        used[limit] = {each.name for each in bundle.load_card(Path(result.bundle_directory)).backbones}
        assert result.prediction_seconds <= limit
    assert used == {0.02: {"squeezenet1_1"}, 0.011: {"mobilenet_v3_small"}}


def _continued(result: Result, snapshot: Path, recipe: Recipe) -> Result:
    """Continues the result's bundle, without overwriting it."""
    out = Path(result.bundle_directory).parent / "continued"
    out.mkdir()
    task = task_for(snapshot, recipe, base_directory=result.bundle_directory, output_directory=str(out))
    return _trained(task)[0]


@pytest.fixture
def wider(tmp_path) -> Path:
    """A snapshot with one more category."""
    return write_snapshot(tmp_path / "later" / "snapshot", names=(*SHAPES, "other"), seed=5)


def test_a_fine_tuned_model_is_continued_with_another_category_and_again(snapshot, wider, tmp_path, monkeypatch):
    scratch = tuning_recipe(max_epochs=2)
    base, _ = _trained(task_for(snapshot, scratch))  # from random weights: there are no others
    recipe = linear_recipe(pretrained=True, resolution=64)
    later = _continued(base, wider, recipe)
    card = bundle.load_card(Path(later.bundle_directory))
    assert [category.name for category in card.categories] == [*SHAPES, "other"]
    assert (later.weights_source, later.backbones) == (WeightsSource.BASE_MODEL, ("mobilenet_v3_small",))
    assert not any("random weights" in warning for warning in later.warnings)
    before, after = _weights(base), _weights(later)
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("trunks."))
    tuned = _continued(later, wider, tuning_recipe(pretrained=True, resolution=64, max_epochs=2))
    first, second = bundle.load_card(Path(tuned.bundle_directory)).backbones
    assert first.tuned
    assert second.tuned, "the frozen network beside it is the base's, not the published one"
    weights = _weights(tuned)
    assert torch.equal(weights["trunks.1.features.0.0.weight"], before["trunks.0.features.0.0.weight"])
    last = _continued(tuned, wider, recipe)
    for name, values in _weights(last).items():
        assert not name.startswith("trunks.") or torch.equal(values, weights[name]), "of the last fine-tuning"


def test_a_model_on_frozen_features_is_continued_with_the_same_weights_and_origin(snapshot, wider, pretrained):
    recipe = linear_recipe(pretrained=True, resolution=64)
    base, _ = _trained(task_for(snapshot, recipe))
    later = _continued(base, wider, recipe)
    card = bundle.load_card(Path(later.bundle_directory))
    assert (later.weights_source, card.backbones[0].weights_sha256) == (WeightsSource.FOLDER, "0" * 64)
    assert not card.backbones[0].tuned
    name = "trunks.0.features.0.0.weight"
    assert torch.equal(_weights(later)[name], _weights(base)[name])


def test_a_base_model_that_is_damaged_or_of_another_kind_is_refused(snapshot):
    base, _ = _trained(task_for(snapshot, linear_recipe()))
    detector = detector_recipe(pretrained=True)
    scenes = write_scenes(snapshot.parent / "boxes" / "snapshot")
    failed, _ = _run(task_for(scenes, detector, base_directory=base.bundle_directory))
    assert isinstance(failed, Failed)
    assert "base_model: it is a GENERIC_CLASSIFIER" in failed.failure.message
    (Path(base.bundle_directory) / "card.json").write_bytes(b"{}")
    failed, _ = _run(task_for(snapshot, linear_recipe(pretrained=True), base_directory=base.bundle_directory))
    assert isinstance(failed, Failed)
    assert "base_model: its bundle is damaged" in failed.failure.message


def test_features_are_computed_once_for_a_snapshot(snapshot, monkeypatch):
    first, _ = _trained(task_for(snapshot, linear_recipe()))

    def never(*_args: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr("services.trainer.engine.classification.features.Extractor._compute", never)
    second, _ = _trained(task_for(snapshot, linear_recipe(name="again")))
    _assert_equal(_weights(first), _weights(second))
    assert second.features is not None
    assert (second.features.reused, second.features.computed) == (1, 0)


def _blocks(task: TrainTask) -> list[Path]:
    return [path for path in (Path(task.cache_directory) / "features").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-4],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"\x93NUMPY",
    ],
)
def test_a_damaged_block_of_features_costs_only_time(snapshot, damage, capfd):
    task = task_for(snapshot, linear_recipe())
    first, _ = _trained(task)
    for path in _blocks(task):
        path.write_bytes(damage(path.read_bytes()))
    second, _ = _trained(task)
    assert second.selection_score == first.selection_score
    assert second.features == FeatureUse(reused=0, computed=1, saved=timedelta())
    assert "is computed again" in capfd.readouterr().err
    third, _ = _trained(task)
    assert third.features is not None
    assert (third.features.reused, third.features.computed) == (1, 0)


def test_features_of_an_image_that_another_machine_could_not_read_are_computed_again(tmp_path, capfd):
    whole, broken = (write_snapshot(tmp_path / name / "snapshot", broken=count) for name, count in WHOLE_AND_BROKEN)
    (broken / "manifest.json").write_bytes((whole / "manifest.json").read_bytes())
    recipe = linear_recipe()
    _trained(task_for(broken, recipe))
    task = task_for(whole, recipe, cache_directory=str(broken.parent / "cache"))
    result, _ = _trained(task)
    assert result.features == FeatureUse(reused=0, computed=1, saved=timedelta())
    assert "it has no features of 1.png" in capfd.readouterr().err
    assert not result.unreadable
    again, _ = _trained(task)
    assert again.features is not None
    assert again.features.reused == 1


def test_a_network_is_made_ready_once_for_all_of_its_framings(snapshot, pretrained, monkeypatch):
    ready: list[object] = []
    original = features.frozen
    monkeypatch.setattr(features, "frozen", lambda network, *rest: ready.append(network) or original(network, *rest))
    framings = (Framing.STRETCH, Framing.CROP)
    recipe = linear_recipe(
        pretrained=True, backbones=(TINY, "squeezenet1_1"), framings=framings, views=2, resolution=64
    )
    result, _ = _trained(task_for(snapshot, recipe))
    assert len(ready) == len(set(map(id, ready))) == 2
    assert result.features is not None
    assert result.features.computed == 8


def test_with_enough_images_a_hold_out_reports_and_selection_never_sees_it(tmp_path):
    snapshot = write_snapshot(tmp_path / "snapshot", per_category=20)
    result, _ = _trained(task_for(snapshot, linear_recipe(), split=Split(holdout_fraction=0.2)))
    assert result.performance.source is Source.HOLD_OUT
    assert result.performance.image_count == 12
    predictions = _classified(result)
    assert len(predictions.image_ids) == 48


def test_a_card_is_calibrated_on_every_image_that_its_prediction_was_not_fitted_on(tmp_path):
    snapshot = write_snapshot(tmp_path / "snapshot", per_category=20)
    result, _ = _trained(task_for(snapshot, linear_recipe(), split=Split(holdout_fraction=0.2)))
    calibration = bundle.load_card(Path(result.bundle_directory)).calibration
    assert calibration is not None
    assert calibration.image_count == 60
    predicted = _classified(result)
    true = [row[label] for row, label in zip(predicted.probabilities, predicted.labels, strict=True)]
    assert np.isin(np.array(true, np.float32), np.array(calibration.probabilities, np.float32)).all(), "out of fold"
    assert list(calibration.probabilities) == sorted(calibration.probabilities, reverse=True)


def test_a_fine_tuning_is_calibrated_on_the_fold_that_it_did_not_train_on(tmp_path):
    snapshot = write_snapshot(tmp_path / "snapshot", per_category=10)
    result, _ = _trained(task_for(snapshot, tuning_recipe(max_epochs=2)))
    calibration = bundle.load_card(Path(result.bundle_directory)).calibration
    assert calibration is not None
    assert calibration.image_count == len(_classified(result).labels) < 10


def test_rung_1_learns_shapes_from_random_weights(tmp_path):
    snapshot = write_snapshot(tmp_path / "snapshot", per_category=16)
    recipe = tuning_recipe(backbones=("resnet18",), max_epochs=4, augmentation=0.1)
    result, said = _trained(task_for(snapshot, recipe))
    assert result.stop_reason == "converged"
    assert (result.epochs, result.steps) == (4, 16)
    assert any(isinstance(message, Progress) and message.phase == "train" for message in said)
    trained_on = _classified(result)
    assert len(trained_on.image_ids) == pytest.approx(48 / 5, abs=2)


def test_rung_1_reports_on_a_hold_out_too(tmp_path):
    snapshot = write_snapshot(tmp_path / "snapshot", per_category=20)
    recipe = tuning_recipe(backbones=("resnet18",), max_epochs=2)
    result, _ = _trained(task_for(snapshot, recipe, split=Split(holdout_fraction=0.2)))
    assert result.performance.source is Source.HOLD_OUT
    assert result.performance.image_count == 12


@pytest.mark.parametrize("depth", [Depth.HEAD, Depth.LAST_STAGES])
def test_rung_1_leaves_what_lies_below_its_depth_as_it_was(snapshot, pretrained, depth):
    before = _weights(_trained(task_for(snapshot, linear_recipe(pretrained=True)))[0])
    recipe = tuning_recipe(depth=depth, pretrained=True, max_epochs=2)
    after = _weights(_trained(task_for(snapshot, recipe))[0])
    assert torch.equal(before["trunks.0.features.0.0.weight"], after["trunks.0.features.0.0.weight"])
    last = next(name for name in before if name.startswith("trunks.0.features.12") and name.endswith("0.weight"))
    assert torch.equal(before[last], after[last]) == (depth is Depth.HEAD)
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_fine_tuning_that_only_harms_ships_the_linear_head(snapshot, pretrained):
    recipe = tuning_recipe(pretrained=True, learning_rate=0.3, average_decay=0.0, max_epochs=2, patience=2)
    result, said = _trained(task_for(snapshot, recipe))
    (offer,) = [message.result for message in said if isinstance(message, Offer)]
    assert result.bundle_directory == offer.bundle_directory
    assert result.selection_log_loss == offer.selection_log_loss
    loaded = bundle.load(Path(result.bundle_directory))
    predictions = _classified(result)
    assert loaded.card.thresholds
    assert np.mean(predictions.correct) == result.selection_score


class _Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("die_at", [1, 4])
def test_a_killed_training_resumes_to_the_same_bits(snapshot, tmp_path, monkeypatch, die_at):
    recipe = tuning_recipe(max_epochs=2, patience=5)
    base = task_for(snapshot, recipe, checkpoint_seconds=0.0, seed=7)
    planned = fit._planned

    def fixed(training):  # what is measured differs from run to run; a checkpoint carries it
        return msgspec.structs.replace(planned(training), total_steps=6, validate_every=1)

    monkeypatch.setattr(fit, "_planned", fixed)
    whole = train(base, Session(Meter(timedelta(seconds=300)), lambda _: None))
    expected = _weights(whole)

    seen: list[Checkpoint] = []

    def die(message: Message) -> None:
        if isinstance(message, Checkpoint):
            seen.append(message)
            if message.step == die_at:
                raise _Killed

    (tmp_path / "second").mkdir()
    with pytest.raises(_Killed):
        train(
            msgspec.structs.replace(base, output_directory=str(tmp_path / "second")),
            Session(Meter(timedelta(seconds=300)), die),
        )
    (tmp_path / "third").mkdir()
    resumed = train(
        msgspec.structs.replace(base, output_directory=str(tmp_path / "third"), checkpoint_path=seen[-1].path),
        Session(Meter(timedelta(seconds=300)), lambda _: None),
    )
    assert resumed.steps == whole.steps
    _assert_equal(expected, _weights(resumed))


def test_a_checkpoint_of_another_recipe_is_not_continued(snapshot):
    said: list[Message] = []
    task = task_for(snapshot, tuning_recipe(max_epochs=2), checkpoint_seconds=0.0)
    train(task, Session(Meter(timedelta(seconds=300)), said.append))
    path = next(message.path for message in reversed(said) if isinstance(message, Checkpoint))
    other = msgspec.structs.replace(task, recipe=tuning_recipe(max_epochs=2, batch_size=4), checkpoint_path=path)
    assert train(other, Session(Meter(timedelta(seconds=300)), lambda _: None)).steps > 7


def test_a_loss_that_stays_infinite_is_diverged_after_three_retries(snapshot, monkeypatch):
    real, planned = fit.step, fit._planned
    injected: list[float] = []

    def broken(training, inputs, labels, number):
        injected.append(training.state.optimizer.param_groups[0]["lr"])
        return float("nan")

    def plan_then_break(training):
        plan = planned(training)
        monkeypatch.setattr(fit, "step", broken)
        return plan

    monkeypatch.setattr(fit, "_planned", plan_then_break)
    with pytest.raises(Diverged) as caught:
        train(task_for(snapshot, tuning_recipe()), Session(Meter(timedelta(seconds=300)), lambda _: None))
    assert caught.value.metadata["retries"] == "3"
    assert len(injected) == 4
    assert injected[3] == pytest.approx(injected[0] / 8)
    assert real is not broken


def test_one_bad_step_is_retried_at_half_the_rate_and_training_succeeds(snapshot, monkeypatch):
    real = fit.step
    bad = iter([False] * 6 + [True])  # three steps of the measurement, then three good ones

    def sometimes(training, inputs, labels, number):
        return float("inf") if next(bad, False) else real(training, inputs, labels, number)

    monkeypatch.setattr(fit, "step", sometimes)
    result, _ = _trained(task_for(snapshot, tuning_recipe(max_epochs=2)))
    assert np.isfinite(result.selection_log_loss)


def test_a_batch_that_does_not_fit_in_memory_is_halved(snapshot, monkeypatch):
    real = step._backward
    sizes: list[int] = []

    def small_only(training, inputs, labels):
        sizes.append(training.micro_batch)
        if training.micro_batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(training, inputs, labels)

    monkeypatch.setattr(step, "_backward", small_only)
    _trained(task_for(snapshot, tuning_recipe(max_epochs=2)))
    assert sizes[:3] == [8, 4, 2]
    assert set(sizes[3:]) == {2}


@pytest.mark.parametrize("recipe", [linear_recipe(), tuning_recipe(max_epochs=2)])
def test_a_few_unreadable_images_are_left_out_and_named(tmp_path, recipe):
    snapshot = write_snapshot(tmp_path / "snapshot", per_category=14, broken=2)
    result, _ = _trained(task_for(snapshot, recipe))
    assert result.unreadable == ("1.png", "2.png")
    assert any("2 images were left out because they cannot be read" in warning for warning in result.warnings)
    predictions = _classified(result)
    assert not {1, 2} & set(predictions.image_ids)


@pytest.mark.parametrize("recipe", [linear_recipe(), tuning_recipe()])
def test_many_unreadable_images_are_a_corrupt_dataset(tmp_path, recipe):
    snapshot = write_snapshot(tmp_path / "snapshot", broken=4)
    failed, _ = _run(task_for(snapshot, recipe))
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "datasetCorrupt"
    assert "1.png (it is cut off: " in failed.failure.metadata["files"]


def test_training_stops_by_itself_before_its_allowance(snapshot):
    brief, _ = _trained(task_for(snapshot, tuning_recipe(max_epochs=1, min_epochs=1)))
    allowance = timedelta(seconds=4) + 2 * brief.used  # on however slow a machine
    recipe = tuning_recipe(max_epochs=10_000, min_epochs=1)
    result, _ = _trained(task_for(snapshot, recipe, allowance=allowance))
    assert result.used < allowance
    assert result.steps > 3


@pytest.mark.parametrize("recipe", [linear_recipe(resolution=448), tuning_recipe(max_epochs=50, min_epochs=50)])
def test_an_allowance_that_cannot_suffice_is_refused_with_a_minimum(snapshot, recipe):
    failed, _ = _run(task_for(snapshot, recipe, allowance=timedelta(seconds=0.02), charge=20.0))
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "notEnoughBudget"
    assert float(failed.failure.metadata["minimum_seconds"]) > 0.4
    assert failed.failure.metadata["budget_seconds"] == "0.4", "as the budget counts it"


@pytest.mark.parametrize("recipe", [linear_recipe(), tuning_recipe()])
def test_a_classifier_is_not_trained_on_a_detection_snapshot(tmp_path, recipe):
    boxes = write_snapshot(tmp_path / "boxes", kind=AnnotationKind.OBJECT_DETECTION)
    failed, _ = _run(task_for(boxes, recipe))
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "incorrectModelKind"


def test_an_evaluation_is_the_report_on_what_the_bundle_serves(tmp_path, snapshot):
    trained, _ = _trained(task_for(snapshot, linear_recipe()))
    test = write_snapshot(tmp_path / "test", names=("cross", "circle", "unknown"), per_category=5, seed=9)
    task = EvaluateTask(
        evaluation="models/m/evaluations/e",
        dataset="datasets/t",
        bundle_directory=trained.bundle_directory,
        directory=str(test),
        output_directory=str(tmp_path),
    )
    measured, _ = _run(task)
    assert isinstance(measured, EvaluationResult)
    predictions = _classified(measured)
    assert predictions.categories == SHAPES
    assert set(predictions.labels) == {SHAPES.index("cross"), SHAPES.index("circle")}
    report = classification_report(np.array(predictions.probabilities), np.array(predictions.labels))
    assert measured.performance.image_count == 10
    assert measured.performance.accuracy_top1 == pytest.approx(report.accuracy_top1)
    assert measured.performance.average_precision == pytest.approx(report.average_precision)
    assert measured.performance.calibration_ece == pytest.approx(report.calibration_ece, abs=1e-4)
    bins = measured.performance.calibration_bins
    assert [one.count for one in bins] == [one.count for one in report.reliability]
    assert all(one.interval and one.interval.low <= one.accuracy <= one.interval.high for one in bins)
    assert measured.performance.tag_performance["square"].accuracy is None
    assert measured.performance.coverage == Coverage(
        image_count=15,
        measured_image_count=10,
        unknown_image_count=5,
        unknown_categories=(UnknownCategory(name="unknown", image_count=5),),
        untested_categories=("square",),
    )
    assert [finding.code for finding in measured.findings] == ["categoriesUnknown", "categoriesUntested"]
    assert "5 of the 15 images of datasets/t" in measured.findings[0].message
    assert "'square'" in measured.findings[1].message


@pytest.mark.parametrize("names", [("cat", "dog"), ("circle", "Square", "dog")])
def test_an_evaluation_of_mostly_unknown_images_is_refused(tmp_path, snapshot, names):
    trained, _ = _trained(task_for(snapshot, linear_recipe()))
    task = EvaluateTask(
        evaluation="models/m/evaluations/e",
        dataset="datasets/t",
        bundle_directory=trained.bundle_directory,
        directory=str(write_snapshot(tmp_path / "test", names=names, per_category=3)),
        output_directory=str(tmp_path),
    )
    failed, _ = _run(task)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "categoriesUnknown"
    for part in (
        "6 of the",
        "images of datasets/t",
        "'dog' (3 images)",
        "The model knows 'circle', 'square', 'cross'.",
    ):
        assert part in failed.failure.message
    assert ("'Square' (3 images; did you mean 'square'?)" in failed.failure.message) == ("Square" in names)


def test_train_head_raises_named_errors_only(snapshot):
    with pytest.raises(Exception, match="is not a backbone"):
        train_head(
            task_for(snapshot, linear_recipe(backbones=("nonsense",))),
            Session(Meter(timedelta(seconds=9)), lambda _: None),
        )


def test_a_head_brings_its_mistakes_and_a_learning_curve_and_its_trial_pays_for_them(tmp_path):
    task = task_for(write_snapshot(tmp_path / "snapshot", per_category=24), linear_recipe())
    result = run(task, lambda _: None)
    assert isinstance(result, Result), result
    predictions = read_predictions(Path(result.predictions_path).read_bytes())
    assert isinstance(predictions, Predictions)
    wrong = {id_ for id_, correct in zip(predictions.image_ids, predictions.correct, strict=True) if not correct}
    mistakes = result.insight.mistakes
    assert wrong <= {one.image_id for one in mistakes} or len(mistakes) == 50
    assert all(one.file_name == f"{one.image_id}.png" for one in mistakes)
    losses = [one.log_loss or 0 for one in mistakes]
    assert losses == sorted(losses, reverse=True)
    curve = result.insight.learning_curve
    assert curve is not None
    assert curve.unavailable == "" or "no time" in curve.unavailable
    assert result.selection_interval is not None
    assert result.selection_interval.low < result.selection_score < result.selection_interval.high


@pytest.mark.parametrize(("allowance", "spent", "steps"), [(1000, 100, 10), (1000, 1, 1), (101, 100, 0)])
def test_a_learning_curve_takes_a_tenth_of_the_time_and_never_what_the_bundle_needs(allowance, spent, steps):
    clock = [0.0]
    session = Session(Meter(timedelta(seconds=allowance), clock=lambda: clock[0]), lambda _: None)
    clock[0] = spent
    out_of_time, taken = curve_limit(session), 0
    while True:
        clock[0] += 0.5 if spent == 1 else 1.0
        taken += 1
        if out_of_time():
            break
    assert taken <= max(1, steps)
