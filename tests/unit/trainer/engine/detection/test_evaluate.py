"""Evaluations of detectors: what the bundle serves, compared with ground truth."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from services.trainer.engine.detection.data import open_scenes
from services.trainer.engine.run import run
from services.trainer.messages import EvaluateTask, EvaluationResult, Failed, Result
from services.trainer.performance import Coverage, UnknownCategory
from services.trainer.predictions import DetectorPredictions, read_predictions
from services.vision import bundle
from services.vision.card import CardBackbone, CardCategory, ModelCard, ModelKind, Suppression, WeightsSource
from services.vision.catalogue import DETECTORS
from services.vision.detection_matching import DetectionTable, GroundTruth
from services.vision.detection_metrics import detection_report
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector
from tests.unit.trainer.engine.scenes import KINDS, SIDE, TINY, write_scenes
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, write_snapshot


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    """A random detector, confident enough to detect many objects; its bundle is in `tmp_path/bundle`."""
    network = build_detector(TINY, 2, seed=1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias") and ("obj_preds" in name or "cls_preds" in name):
                parameter.fill_(1.0)
            elif "preds" in name:
                parameter.mul_(30)
    card = ModelCard(
        kind=ModelKind.GENERIC_DETECTOR,
        categories=tuple(CardCategory(i + 1, name) for i, name in enumerate(KINDS)),
        backbones=(CardBackbone(TINY, DETECTORS[TINY].rule.resized(SIDE), WeightsSource.RANDOM),),
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


def test_an_evaluation_measures_what_the_detector_serves(tmp_path, detector):
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
    bins = result.performance.calibration_bins
    assert 0 < sum(one.count for one in bins) <= len(found.scores.array())
    assert all(one.interval is None for one in bins)
    assert result.performance.calibration_ece is None
    assert not result.findings
    assert result.performance.coverage == Coverage(image_count=11, measured_image_count=11, region_count=12)


def test_crowds_and_unknown_categories_count_as_coco_counts_them(tmp_path, detector):
    names = ("square", "unknown", "disc")
    snapshot = write_scenes(tmp_path / "test", 12, names=names, crowd=True, seed=5)
    result, predictions = _evaluated(tmp_path, snapshot)
    scenes = open_scenes(snapshot, "datasets/t")
    shown = [[box for box in sample.record.boxes if names[box.category] in KINDS] for sample in scenes.samples]
    measured = [row for row, sample in enumerate(scenes.samples) if shown[row] or not sample.record.boxes]
    boxes = [(row, box) for row, index in enumerate(measured) for box in scenes.samples[index].record.boxes]
    known = [(row, box) for row, box in boxes if names[box.category] in KINDS]
    truth = GroundTruth(
        images=np.array([row for row, _ in known]),
        categories=np.array([KINDS.index(names[box.category]) for _, box in known]),
        boxes=np.array([(box.x, box.y, box.w, box.h) for _, box in known]),
        crowds=np.array([box.iscrowd for _, box in known]),
    )
    columns = predictions.found
    found = DetectionTable(
        columns.images.array(), columns.labels.array(), columns.boxes.array(), columns.scores.array()
    )
    assert predictions.image_ids.array().tolist() == scenes.ids[measured].tolist()
    report = detection_report(truth, found, len(measured), len(KINDS))
    assert truth.crowds.sum() == 1
    assert result.performance.mean_average_precision_30 == pytest.approx(report.mean_average_precision_30)
    assert result.performance.mean_average_precision_50 == pytest.approx(report.mean_average_precision_50)
    assert result.performance.tag_performance["disc"].support == int((truth.categories == 0)[~truth.crowds].sum())
    unknown = sum(1 for sample in scenes.samples for box in sample.record.boxes if box.category == 1)
    in_images = sum(1 for sample in scenes.samples if any(box.category == 1 for box in sample.record.boxes))
    coverage = result.performance.coverage
    assert coverage is not None
    assert coverage.image_count == len(scenes.samples) == 14
    assert coverage.measured_image_count == result.performance.image_count == len(measured)
    assert coverage.unknown_image_count == 14 - len(measured) > 0
    assert (coverage.region_count - coverage.unknown_region_count, coverage.unknown_region_count) == (
        len(known),
        unknown,
    )
    assert coverage.unknown_categories == (
        UnknownCategory(name="unknown", image_count=in_images, region_count=unknown),
    )
    (finding,) = result.findings
    assert finding.code == "categoriesUnknown"
    assert f"{unknown} of the {coverage.region_count} regions of datasets/t" in finding.message


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize("names", [("cat", "dog"), ("disc", "Square", "dog")])
def test_an_evaluation_of_mostly_unknown_regions_is_refused(tmp_path, names):
    failed = run(_task(tmp_path, write_scenes(tmp_path / "test", 9, names=names)), lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "categoriesUnknown"
    for part in ("datasets/t", "'dog'", "The model knows 'disc', 'square'."):
        assert part in failed.failure.message
    assert ("did you mean 'square'?" in failed.failure.message) == ("Square" in names)


@pytest.mark.usefixtures("detector")
def test_few_unknown_regions_in_most_images_are_refused_too(tmp_path):
    """5 of the 13 regions are unknown, but they are the only ones in 5 of the 9 images."""
    snapshot = write_scenes(tmp_path / "test", 9, names=("disc", "square", "dog"), empty=0)
    index = json.loads((snapshot / "0.json").read_text())
    for record in index["records"]:
        most = record["image_id"] > 4
        record["boxes"] = [[1, 1, 9, 9, 2, False]] if most else [[1, 1, 9, 9, 0, False], [20, 20, 9, 9, 1, False]]
    (snapshot / "0.json").write_text(json.dumps(index))
    failed = run(_task(tmp_path, snapshot), lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "categoriesUnknown"
    assert "5 of the 9 images of datasets/t" in failed.failure.message


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize(
    ("boxes", "says"), [([], "has no annotations"), ([[1, 1, 9, 9, 0, True]], "every region")], ids=["none", "crowds"]
)
def test_a_snapshot_without_anything_to_find_is_refused(tmp_path, boxes, says):
    snapshot = write_scenes(tmp_path / "test", 4)
    index = json.loads((snapshot / "0.json").read_text())
    for record in index["records"]:
        record["boxes"] = boxes
    (snapshot / "0.json").write_text(json.dumps(index))
    failed = run(_task(tmp_path, snapshot), lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "datasetAnnotationsInvalid"
    assert failed.failure.message.startswith("datasets/t: ")
    assert says in failed.failure.message


@pytest.mark.usefixtures("detector")
def test_an_unreadable_image_is_named_and_not_measured(tmp_path):
    result, predictions = _evaluated(tmp_path, write_scenes(tmp_path / "test", 38, broken=1))
    assert result.unreadable == ("1.png",)
    assert 1 not in predictions.image_ids.array()
    assert result.performance.image_count == 39
    coverage = result.performance.coverage
    assert coverage is not None
    assert (coverage.image_count, coverage.unreadable_image_count, coverage.unknown_image_count) == (40, 1, 0)
    (finding,) = result.findings
    assert finding.code == "imagesUnreadable"
    assert "1 of the 40 images of datasets/t, which cannot be read: 1.png." in finding.message


@pytest.mark.usefixtures("detector")
def test_models_are_only_evaluated_on_snapshots_of_their_kind(tmp_path):
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
