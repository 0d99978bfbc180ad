"""A step does not depend on its micro-batches: neither on their number, nor on memory that only some fit into."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

from services.kit.errors import OutOfMemory
from services.trainer.engine import pretrained as classifiers
from services.trainer.engine.classification import task as classification
from services.trainer.engine.classification.task import ClassificationTask
from services.trainer.engine.detection import network as detectors
from services.trainer.engine.detection import task as detection
from services.trainer.engine.loop.numerics import Numerics, candidates, fastest
from services.trainer.engine.loop.step import step
from services.trainer.engine.loop.task import BatchRequest
from services.trainer.engine.loop.training import Training
from services.trainer.engine.run import run
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Failed, Result, TrainTask
from services.trainer.recipe import Recipe
from services.vision import backbones
from services.vision.backbones import Network, build
from services.vision.card import ModelKind, WeightsSource
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector
from services.vision.weights import PretrainedWeights
from tests.unit.trainer.engine.scenes import detector_recipe, write_scenes
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, tuning_recipe, write_snapshot

SETTINGS = {"pretrained": True, "linear_head": False, "batch_size": 8}
CLASSIFIER, DETECTOR = tuning_recipe(**SETTINGS), detector_recipe(**SETTINGS)
FULL = torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture(autouse=True)
def _pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights that pass for pretrained ones, so that batch statistics are frozen."""
    torch.set_num_threads(1)
    weights = PretrainedWeights({}, WeightsSource.FOLDER, "0" * 64, "")
    monkeypatch.setattr(
        classifiers, "pretrained_network", lambda name, count, _, *, seed: (build(name, count, seed=seed), weights)
    )
    monkeypatch.setattr(
        detectors,
        "pretrained_detector",
        lambda name, count, _, *, seed: (build_detector(name, count, seed=seed), weights),
    )


def _task(tmp_path: Path, recipe: Recipe) -> TrainTask:
    write = write_scenes if recipe.kind is ModelKind.GENERIC_DETECTOR else write_snapshot
    folder = tmp_path / "snapshot"
    return task_for(folder if folder.exists() else write(folder), recipe)


def _training(tmp_path: Path, recipe: Recipe) -> Training:
    task, session = _task(tmp_path, recipe), Session(Meter(timedelta(seconds=300)), lambda _: None)
    start = detection.start if recipe is DETECTOR else classification.start
    training = Training.begin(task, session, start(task, session))
    training.compute_in(Numerics())  # some CPUs train detectors in bfloat16
    return training


def _stepped(training: Training, micro_batch: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and the gradients of one step."""
    training.micro_batch = micro_batch
    requests = [BatchRequest(0, training.partition.other_folds[:8])]
    ((inputs, truths),) = training.vision_task.batches(requests)
    loss = step(training, inputs, truths, 0)
    network = training.state.network
    return loss, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recipe", [CLASSIFIER, DETECTOR], ids=["classifier", "detector"])
def test_a_step_in_micro_batches_is_the_step_of_the_whole_batch(tmp_path, recipe):
    whole_loss, whole = _stepped(_training(tmp_path, recipe), 8)
    assert whole
    for micro_batch in (1, 2, 3):
        loss, gradients = _stepped(_training(tmp_path, recipe), micro_batch)
        assert loss == pytest.approx(whole_loss, rel=1e-5)
        assert gradients.keys() == whole.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-3, atol=1e-4)


def test_a_step_that_fits_only_in_small_micro_batches_is_the_same_step(tmp_path, monkeypatch):
    whole_loss, whole = _stepped(_training(tmp_path, CLASSIFIER), 8)
    real, tried = ClassificationTask.loss, list[int]()

    def small_only(self, network, inputs, truths):
        tried.append(len(inputs))
        if len(inputs) > 2:
            raise FULL
        return real(self, network, inputs, truths)

    monkeypatch.setattr(ClassificationTask, "loss", small_only)
    training = _training(tmp_path, CLASSIFIER)
    loss, gradients = _stepped(training, 8)
    assert tried == [8, 4, 2, 2, 2, 2]
    assert training.micro_batch == 2
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-3, atol=1e-4)


def test_a_single_image_that_does_not_fit_is_out_of_memory(tmp_path, monkeypatch):
    def never(*_):
        raise FULL

    training = _training(tmp_path, CLASSIFIER)
    monkeypatch.setattr(ClassificationTask, "loss", never)
    with pytest.raises(OutOfMemory):
        _stepped(training, 8)


def _limited(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, position: int, room: int) -> list[int]:
    """Lets a function run out of memory for more than `room` images outside of training; returns what was tried."""
    real, tried = getattr(owner, name), list[int]()

    def limited(*args, **kwargs):
        images = args[position]
        training = isinstance(args[0], nn.Module) and args[0].training
        if not training:
            tried.append(len(images))
            if len(images) > room:
                raise FULL
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, limited)
    return tried


@pytest.mark.parametrize("room", [2, 0])
def test_features_are_extracted_in_batches_that_fit(tmp_path, monkeypatch, room):
    tried = _limited(monkeypatch, backbones, "embed", 1, room)
    monkeypatch.setattr("services.trainer.engine.classification.frozen.embed", backbones.embed)
    result = run(_task(tmp_path, linear_recipe()), lambda _: None)
    if room:
        assert isinstance(result, Result), result
        assert max(tried[4:]) == room
    else:
        assert isinstance(result, Failed)
        assert result.failure.reason == "outOfMemory"


@pytest.mark.parametrize("room", [2, 0])
def test_predictions_while_training_are_made_in_batches_that_fit(tmp_path, monkeypatch, room):
    tried = _limited(monkeypatch, Network, "forward", 1, room)
    result = run(_task(tmp_path, CLASSIFIER), lambda _: None)
    assert tried
    if room:
        assert isinstance(result, Result), result
    else:
        assert isinstance(result, Failed)
        assert result.failure.reason == "outOfMemory"


def test_a_detector_s_predictions_while_training_are_made_in_batches_that_fit(tmp_path, monkeypatch):
    tried = _limited(monkeypatch, Detector, "_candidates", 1, 1)
    assert isinstance(run(_task(tmp_path, DETECTOR), lambda _: None), Result)
    assert set(tried) == {2, 1}


FLOAT = Numerics()
BRAIN = Numerics(bfloat16=True)


def test_on_a_cpu_nothing_is_measured_and_nothing_changes():
    def unasked(_: Numerics) -> float:
        raise AssertionError

    assert candidates("cpu", FLOAT) == (FLOAT,)
    assert fastest((FLOAT,), unasked) is FLOAT


@pytest.mark.parametrize(("seconds", "best"), [((1.0, 0.5), BRAIN), ((1.0, 0.99), FLOAT), ((1.0, 2.0), FLOAT)])
def test_a_less_exact_choice_must_be_clearly_faster(seconds, best):
    times = dict(zip((FLOAT, BRAIN), seconds, strict=True))
    assert fastest((FLOAT, BRAIN), times.__getitem__) is best


def test_a_gpu_with_bfloat16_offers_both_precisions_and_layouts(monkeypatch):
    for supported, count in ((True, 4), (False, 2)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        found = candidates("cuda", FLOAT)
        assert found[0] == FLOAT
        assert len(found) == count
        assert len({str(one) for one in found}) == count
