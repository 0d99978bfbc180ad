"""Whole tasks on a GPU, as a worker sends them to a child; skipped if torch finds no GPU."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from services.trainer.engine.run import run
from services.trainer.messages import Checkpoint, EvaluateTask, EvaluationResult, Message, Result, TrainTask
from services.vision import bundle
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.preprocess import channels_first, normalise
from tests.support.classifiers import predict
from tests.unit.trainer.engine.scenes import detector_recipe, write_scenes
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, tuning_recipe, write_snapshot

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


def _trained(task: TrainTask) -> tuple[Result, list[Message]]:
    said: list[Message] = []
    result = run(msgspec.structs.replace(task, device=DEVICE), said.append)
    assert isinstance(result, Result), result
    return result, said


def _evaluated(result: Result, snapshot: Path, directory: Path) -> None:
    task = EvaluateTask(
        evaluation="models/m/evaluations/e",
        dataset="datasets/d",
        bundle_directory=result.bundle_directory,
        directory=str(snapshot),
        output_directory=str(directory),
        device=DEVICE,
    )
    assert isinstance(run(task, lambda _: None), EvaluationResult)


@pytest.mark.parametrize("recipe", [linear_recipe(), tuning_recipe()], ids=["linear head", "fine-tuning"])
def test_a_classifier_is_trained_and_evaluated_and_predicts_as_on_a_cpu(tmp_path, recipe):
    snapshot = write_snapshot(tmp_path / "snapshot")
    result, _ = _trained(task_for(snapshot, recipe))
    _evaluated(result, snapshot, tmp_path)
    here, there = (bundle.load(Path(result.bundle_directory), device) for device in ("cpu", DEVICE))
    assert isinstance(here, Classifier)
    assert isinstance(there, Classifier)
    images = [np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)]
    np.testing.assert_allclose(predict(there, images), predict(here, images), atol=1e-2)


def test_a_detector_is_trained_resumed_and_evaluated_and_predicts_as_on_a_cpu(tmp_path):
    snapshot = write_scenes(tmp_path / "snapshot")
    task = task_for(snapshot, detector_recipe(), checkpoint_seconds=0.0)
    _, said = _trained(task)
    checkpoints = [message for message in said if isinstance(message, Checkpoint)]
    result, _ = _trained(msgspec.structs.replace(task, checkpoint_path=checkpoints[-1].path))
    _evaluated(result, snapshot, tmp_path)
    here, there = (bundle.load(Path(result.bundle_directory), device) for device in ("cpu", DEVICE))
    assert isinstance(here, Detector)
    assert isinstance(there, Detector)
    view = here.prepare_pixels(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8), 96, 96).pixels
    inputs = normalise(channels_first(view), here.rule)[None]
    with torch.inference_mode():
        expected = here.network.candidates(inputs)
        found = there.network.candidates(inputs.to(DEVICE))
    torch.testing.assert_close(found.scores.cpu(), expected.scores, atol=1e-2, rtol=0)
