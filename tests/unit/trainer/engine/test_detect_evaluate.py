"""Evaluations of detectors: what the bundle serves against what is there."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from services.trainer.engine.detection.data import open_scenes
from services.trainer.engine.run import run
from services.trainer.predictions import DetectorPredictions, read_predictions
from services.trainer.protocol import EvaluateTask, EvaluationResult, Failed, Result
from services.vision import bundle
from services.vision.card import DETECTOR, CardBackbone, CardCategory, ModelCard, Suppression
from services.vision.detection_matching import Detected, GroundTruth
from services.vision.detection_metrics import detection_report
from services.vision.detector import Detector
from services.vision.detectors import DETECTORS, build_detector
from tests.unit.trainer.engine.scenes import KINDS, SIDE, TINY, write_scenes
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, write_snapshot


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    """Random, and sure enough of what it sees to say much; its bundle lies in `tmp_path/bundle`."""
    network = build_detector(TINY, 2, seed=1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias") and ("obj_preds" in name or "cls_preds" in name):
                parameter.fill_(1.0)
            elif "preds" in name:
                parameter.mul_(30)
    card = ModelCard(
        kind=DETECTOR,
        categories=tuple(CardCategory(i + 1, name) for i, name in enumerate(KINDS)),
        backbones=(CardBackbone(TINY, DETECTORS[TINY].rule.resized(SIDE), "RANDOM"),),
        suppression=Suppression(0.5, 0.01, 20),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    made = Detector(card, network)
    bundle.write(tmp_path / "bundle", made)
    return made


def _task(tmp_path: Path, snapshot: Path, of: str = "") -> EvaluateTask:
    return EvaluateTask(
        evaluation="models/m/evaluations/e",
        dataset="datasets/t",
        bundle_directory=of or str(tmp_path / "bundle"),
        directory=str(snapshot),
        output_directory=str(tmp_path / "out"),
    )


def _evaluated(tmp_path: Path, snapshot: Path) -> tuple[EvaluationResult, DetectorPredictions]:
    result = run(_task(tmp_path, snapshot), lambda _: None)
    assert isinstance(result, EvaluationResult), result
    predictions = read_predictions(Path(result.predictions_path).read_bytes())
    assert isinstance(predictions, DetectorPredictions)
    return result, predictions


def test_an_evaluation_says_what_the_detector_serves(tmp_path, detector):
    snapshot = write_scenes(tmp_path / "test", 9, crowd=True, seed=3)
    result, predictions = _evaluated(tmp_path, snapshot)
    scenes = open_scenes(snapshot, "datasets/t")
    found = predictions.found
    assert len(found.scores.array()) > 20
    for row in range(len(scenes.samples)):
        (served,) = detector.predict_prepared([detector.prepare(scenes.read(row))])
        of_image = found.images.array() == row
        assert found.boxes.array()[of_image] == pytest.approx(served.boxes, abs=1e-3)
        assert found.scores.array()[of_image] == pytest.approx(served.scores, abs=1e-5)
        assert found.labels.array()[of_image].tolist() == served.labels.tolist()
    assert result.performance.image_count == 11
    assert not result.warnings


def test_crowds_and_unknown_categories_count_as_coco_counts_them(tmp_path, detector):
    names = ("square", "unknown", "disc")
    snapshot = write_scenes(tmp_path / "test", 12, names=names, crowd=True, seed=5)
    result, predictions = _evaluated(tmp_path, snapshot)
    scenes = open_scenes(snapshot, "datasets/t")
    boxes = [(row, box) for row, sample in enumerate(scenes.samples) for box in sample.record.boxes]
    known = [(row, box) for row, box in boxes if names[box.category] in KINDS]
    truth = GroundTruth(
        images=np.array([row for row, _ in known]),
        categories=np.array([KINDS.index(names[box.category]) for _, box in known]),
        boxes=np.array([(box.x, box.y, box.w, box.h) for _, box in known]),
        crowds=np.array([box.iscrowd for _, box in known]),
    )
    columns = predictions.found
    found = Detected(columns.images.array(), columns.labels.array(), columns.boxes.array(), columns.scores.array())
    report = detection_report(truth, found, len(scenes.samples), len(KINDS))
    assert truth.crowds.sum() == 1
    assert result.performance.mean_average_precision_30 == pytest.approx(report.mean_average_precision_30)
    assert result.performance.mean_average_precision_50 == pytest.approx(report.mean_average_precision_50)
    assert result.performance.tag_performance["disc"].support == int((truth.categories == 0)[~truth.crowds].sum())
    (warning,) = result.warnings
    assert f"{len(boxes) - len(known)} regions" in warning
    assert "unknown" in warning


@pytest.mark.usefixtures("detector")
def test_an_evaluation_without_a_common_category_is_refused(tmp_path):
    failed = run(_task(tmp_path, write_scenes(tmp_path / "test", 4, names=("cat", "dog"))), lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "datasetAnnotationsInvalid"


@pytest.mark.usefixtures("detector")
def test_an_image_that_cannot_be_read_is_named_and_not_measured(tmp_path):
    result, predictions = _evaluated(tmp_path, write_scenes(tmp_path / "test", 38, broken=1))
    assert result.unreadable == ("1.png",)
    assert 1 not in predictions.image_ids.array()
    assert result.performance.image_count == 39


@pytest.mark.usefixtures("detector")
def test_models_are_evaluated_on_snapshots_of_their_kind_only(tmp_path):
    shapes = write_snapshot(tmp_path / "shapes")
    failed = run(_task(tmp_path, shapes), lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "incorrectModelKind"
    trained = run(task_for(shapes, linear_recipe()), lambda _: None)
    assert isinstance(trained, Result)
    scenes = write_scenes(tmp_path / "test")
    failed = run(_task(tmp_path, scenes, trained.bundle_directory), lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "incorrectModelKind"
