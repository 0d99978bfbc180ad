"""Initial category outputs, from a network that acts as a pretrained one."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from services.trainer.engine.detection import network as networks
from services.trainer.engine.detection import task as detection
from services.trainer.engine.detection.batches import SceneBatches
from services.trainer.engine.detection.class_head import initialise_class_outputs
from services.trainer.engine.detection.data import open_scenes
from services.trainer.engine.detection.network import Origin
from services.trainer.engine.prefetch import KEPT_BYTES
from services.trainer.engine.run import run
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Message, Offer, Result
from services.vision.canvas import fitting_canvas, variation
from services.vision.card import WeightsSource
from services.vision.catalogue import DETECTORS
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector
from services.vision.weights import PretrainedWeights
from services.vision.yolox import Yolox
from tests.unit.trainer.engine.scenes import SIDE, TINY, detector_recipe, write_scenes
from tests.unit.trainer.engine.shapes import task_for

LIKELY = 2  # the only one of three pretrained categories that ever scores


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def pretrained() -> PretrainedWeights:
    network = build_detector(TINY, 3, seed=11)
    assert isinstance(network, Yolox)
    with torch.no_grad():
        for level in network.head.obj_preds:
            level.get_parameter("bias").fill_(3.0)
        for level in network.head.cls_preds:
            level.get_parameter("bias").copy_(torch.tensor([-9.0, -9.0, 2.0]))
    return PretrainedWeights(network.state_dict(), WeightsSource.FOLDER, "0" * 64, "")


def _initialised(tmp_path: Path, weights: PretrainedWeights, names: tuple[str, ...]) -> tuple[bool, Yolox, Yolox]:
    """The return value, the network after it, and the network before it."""
    scenes = open_scenes(write_scenes(tmp_path / "snapshot", 8, names), "datasets/d")
    rows = np.arange(len(scenes.samples))
    rule = DETECTORS[TINY].rule.resized(SIDE)
    canvas = fitting_canvas(scenes.sizes(rows), SIDE)
    batches = SceneBatches(scenes, rule, canvas, variation(0, mirror=False), 0, 1, KEPT_BYTES)
    network, before = (build_detector(TINY, len(names), seed=1) for _ in range(2))
    assert isinstance(network, Yolox)
    assert isinstance(before, Yolox)
    done = initialise_class_outputs(
        network, Origin(DETECTORS[TINY], rule, weights), batches, rows, Meter(timedelta(seconds=1e6))
    )
    return done, network, before


def test_a_category_starts_with_the_outputs_that_score_in_its_regions(tmp_path, pretrained):
    done, network, before = _initialised(tmp_path, pretrained, ("disc",))
    assert done
    for level in range(3):
        theirs = pretrained.state[f"head.cls_preds.{level}.weight"][LIKELY]
        assert torch.equal(network.head.cls_preds[level].get_parameter("weight")[0], theirs)
        assert torch.equal(network.head.cls_preds[level].get_parameter("bias"), torch.tensor([2.0]))
    own, others = network.state_dict(), before.state_dict()
    assert all(torch.equal(own[name], others[name]) for name in own if "cls_preds" not in name)


def test_categories_that_look_like_the_same_one_keep_their_random_outputs(tmp_path, pretrained):
    done, network, before = _initialised(tmp_path, pretrained, ("disc", "square"))
    assert not done
    assert all(
        torch.equal(after, value)
        for after, value in zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    )


@pytest.fixture
def within_reach(pretrained, monkeypatch) -> None:
    """Trainings start from the network that acts as a pretrained one."""

    def network(name, categories, _resolver, *, seed):
        return build_detector(name, categories, seed=seed), pretrained

    monkeypatch.setattr(networks, "pretrained_detector", network)


@pytest.mark.usefixtures("within_reach")
def test_the_initialised_network_is_offered_before_any_step(tmp_path):
    said: list[Message] = []
    task = task_for(write_scenes(tmp_path / "snapshot", 8, ("disc",)), detector_recipe(pretrained=True, max_epochs=1))
    result = run(task, said.append)
    assert isinstance(result, Result), result
    assert result.weights_source == WeightsSource.FOLDER
    first = next(message.result for message in said if isinstance(message, Offer))
    assert first.steps == 0


@pytest.mark.usefixtures("within_reach")
def test_measuring_the_initialised_network_has_its_limits(tmp_path, monkeypatch):
    """It leaves time for training, and respects the attempt's batch size limit."""
    now, sizes = [0.0], list[int]()
    predict = Detector.predict_prepared

    def slow(self, images):
        sizes.append(len(images))
        now[0] += 4.0
        return predict(self, images)

    monkeypatch.setattr(Detector, "predict_prepared", slow)
    snapshot = write_scenes(tmp_path / "snapshot", 24, ("disc",))
    task = task_for(snapshot, detector_recipe(pretrained=True), batch_size_limit=2)
    assert (
        detection.start(task, Session(Meter(timedelta(seconds=100), lambda: now[0]), lambda _: None)).candidate
        is not None
    )
    before = now[0]
    assert (
        detection.start(task, Session(Meter(timedelta(seconds=10), lambda: now[0] - before), lambda _: None)).candidate
        is None
    )
    assert now[0] - before <= 8
    assert max(sizes) <= 2
