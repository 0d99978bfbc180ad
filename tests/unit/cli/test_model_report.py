"""`sightline models report`: what the page has, that it loads nothing, and that no text from outside is markup."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import grpc
import pytest
from PIL import Image

from sightline.pages.curves import Axes, Measured, Reliable, learning_curve, reliability, unit_square
from sightline.v1.dataset_service_pb2 import ReadImagesRequest
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.insight_pb2 import Doubt
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.performance_pb2 import ModelPerformance
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status
from tests.unit.cli.pages import EVIL, Page, photo


@pytest.fixture
def birds(fakes: Fakes) -> Model:
    """A classifier with everything that a page shows, and hostile names; its dataset has two of the three images."""
    fakes.images = {"1.png": photo(400, 300), "2.png": photo(50, 200), f"{EVIL}.png": b"broken"}
    model = Model(name="models/birds", display_name=EVIL, state=Model.SUCCEEDED, model_version="v1")
    model.stop_reason = Model.BUDGET_REACHED
    model.snapshot_digest = "sha256:abc"
    model.training_dataset_version = 3
    wanted = model.training_parameters
    wanted.model_kind, wanted.training_dataset = TrainingParameters.GENERIC_CLASSIFIER, "datasets/birds"
    wanted.time_budget.FromSeconds(600)
    model.training_cost.FromSeconds(550)
    model.warnings.append(f"Beware of {EVIL}.")
    performance = model.performance
    performance.accuracy_top1, performance.calibration_ece, performance.image_count = 0.9, 0.031, 40
    performance.intervals["accuracy_top1"].low, performance.intervals["accuracy_top1"].high = 0.8, 0.95
    performance.intervals["accuracy_top1"].level = 0.95
    performance.source = ModelPerformance.HOLD_OUT
    for name, accuracy in ((EVIL, 0.5), ("tit", 1.0)):
        performance.tag_performance[name].accuracy, performance.tag_performance[name].support = accuracy, 10
        curve = performance.precision_recall_curves[name]
        curve.thresholds.extend((0.9, 0.4))
        curve.precisions.extend((1, 0.5))
        curve.recalls.extend((0.5, 1))
    performance.confusion_matrix.categories.extend((EVIL, "tit"))
    for row, col, count in ((0, 0, 5), (0, 1, 5), (1, 1, 10)):
        performance.confusion_matrix.entries.add(row=row, col=col, count=count)
    for confidence, accuracy, count in ((0.5, 0.25, 4), (0.9, 0.875, 16)):
        one = performance.calibration_bins.add(mean_confidence=confidence, accuracy=accuracy, count=count)
        one.interval.low, one.interval.high = accuracy - 0.1, accuracy + 0.1
    for id_ in (1, 2, 3, 9):
        model.worst_mistakes.add(
            image_id=id_, file_name=f"{EVIL}{id_}.png", true_category=EVIL, predicted_category="tit", probability=0.99
        )
    curve = model.learning_curve
    curve.metric = "accuracy_top1"
    curve.power_law.a, curve.power_law.b, curve.power_law.c = 1, 1, 0.5
    for images, value in ((5, 0.6), (10, 0.7), (20, 0.8)):
        point = curve.points.add(images_per_category=images, value=value)
        point.interval.low, point.interval.high = value - 0.1, value + 0.1
    entry = model.leaderboard.add(trial="models/birds/trials/t001", recipe=EVIL, verdict="the best", served=True)
    entry.score, entry.score_metric = 0.9, "accuracy_top1"
    for charged in (True, False):
        spent = model.ledger.add(trial="models/birds/trials/t001", attempt=1, charged=charged, reason="completed")
        spent.duration.FromSeconds(550)
    fakes.models[model.name] = model
    held = Evaluation(name="models/birds/evaluations/held-out", state=Evaluation.SUCCEEDED)
    held.test_dataset, held.performance.accuracy_top1 = "datasets/held", 0.85
    interval = held.performance.intervals["accuracy_top1"]
    interval.low, interval.high, interval.level = 0.75, 0.91, 0.95
    fakes.evaluations[held.name] = held
    return model


def made(sightline: Command, tmp_path: Path, *options: str) -> Page:
    file = tmp_path / "report.html"
    outcome = sightline("models", "report", "birds", "--html", str(file), *options)
    assert (outcome.code, outcome.out.strip()) == (0, f"wrote {file}"), outcome.err
    return Page(file.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("birds")
def test_no_text_from_outside_is_markup_and_nothing_is_loaded(sightline: Command, tmp_path: Path) -> None:
    page = made(sightline, tmp_path)
    page.require_harmless()
    assert sum(EVIL in text for text in page.texts) >= 10


@pytest.mark.usefixtures("birds")
def test_the_page_says_how_good_the_model_is_what_it_cost_and_what_to_do(sightline: Command, tmp_path: Path) -> None:
    page = made(sightline, tmp_path)
    for said in (
        "SUCCEEDED (budget reached)",
        "datasets/birds, version 3",
        "sha256:abc",
        "9m10s used of 10m",
        "Measured on 40 images: held-out training images.",
        "90.0 %  (80.0 % to 95.0 % at 95 %)",
        "Confidences are off by 3.1 points on average.",
        "5 × " + EVIL,
        "Confused categories",
        "top-1 accuracy 85.0 %  (75.0 % to 91.0 % at 95 %)",
        "Charged: 9m10s.",
    ):
        assert said in page.text, said
    headings = [text for text in page.texts if text in ("Quality", "Categories", "Confusion", "Trials", "Ledger")]
    assert headings == ["Quality", "Categories", "Confusion", "Trials", "Ledger"]
    assert len(page.all("polyline")) == 2 + 2 + 1  # two categories' precision, twice, and the fitted law
    assert len(page.all("circle")) == 2 + 3


@pytest.mark.usefixtures("birds")
def test_mistakes_are_shown_as_the_trained_version_has_them(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    page = made(sightline, tmp_path)
    asked = [one for one in fakes.requests if isinstance(one, ReadImagesRequest)]
    assert {one.version for one in asked} == {3}
    images = [Image.open(BytesIO(b64decode((one["href"] or "").partition(",")[2]))) for one in page.all("image")]
    assert [image.size for image in images] == [(400, 300), (50, 200)]
    assert page.texts.count("not shown") == 2  # one cannot be read, and the dataset does not have the other


@pytest.mark.usefixtures("birds")
def test_as_few_pictures_are_shown_as_wanted(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    assert len(made(sightline, tmp_path, "--pictures", "1").all("image")) == 1
    fakes.requests.clear()
    assert made(sightline, tmp_path, "--pictures", "0").all("image") == []
    assert not any(isinstance(one, ReadImagesRequest) for one in fakes.requests)


@pytest.mark.usefixtures("birds")
def test_without_its_dataset_a_model_has_a_page_that_says_so(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    fakes.errors["ReadImages:opens"] = [status(grpc.StatusCode.NOT_FOUND, "datasetNotFound", "There is no such one.")]
    page = made(sightline, tmp_path)
    assert "The pictures are missing: There is no such one." in page.texts
    assert "Ledger" in page.texts
    assert page.all("image") == []


def test_boxes_to_check_are_drawn_as_labelled_and_as_found(
    sightline: Command, fakes: Fakes, birds: Model, tmp_path: Path
) -> None:
    del birds.worst_mistakes[:]
    birds.training_parameters.model_kind = TrainingParameters.GENERIC_DETECTOR
    birds.doubts.add(
        image_id=1,
        file_name="1.png",
        kind=Doubt.CATEGORY,
        category="tit",
        confidence=0.97,
        box=(10, 20, 30, 40),
        region_category=EVIL,
        region_box=(11, 21, 30, 40),
    )
    birds.doubts.add(image_id=2, file_name="2.png", kind=Doubt.MISSING, category="tit", box=(1, 2, 3, 4))
    fakes.models[birds.name] = birds
    page = made(sightline, tmp_path)
    drawn = [(one["x"], one["y"], one["stroke"]) for one in page.all("rect") if one.get("fill") == "none"]
    labelled, found = "hsl(210 90% 45%)", "hsl(25 90% 45%)"
    assert drawn == [("11.0", "21.0", labelled), ("10.0", "20.0", found), ("1.0", "2.0", found)]
    assert f"labelled {EVIL}, found tit (97.0 %)" in page.texts
    assert any(text.startswith("a box is probably missing") for text in page.texts)


def test_what_confidences_are_worth_is_shown_of_images_or_of_detections(
    sightline: Command, birds: Model, tmp_path: Path
) -> None:
    page = made(sightline, tmp_path)
    assert "Calibration" in page.texts
    assert "confidence 50 %: 25 % of 4 right" in page.texts
    assert [one.get("class") for one in page.all("line")].count("ideal") == 1
    birds.performance.ClearField("calibration_ece")
    birds.performance.mean_average_precision_50 = 0.5
    page = made(sightline, tmp_path)
    assert "confidence 50 %: 25 % of 4 right" in page.texts
    assert "off by" not in page.text


def test_an_error_that_an_earlier_version_measured_is_shown_without_a_drawing(
    sightline: Command, birds: Model, tmp_path: Path
) -> None:
    del birds.performance.calibration_bins[:]
    page = made(sightline, tmp_path)
    assert "off by 3.1 points" in page.text
    assert not any(one.get("class") == "ideal" for one in page.all("line"))
    birds.performance.ClearField("calibration_ece")
    assert "Calibration" not in made(sightline, tmp_path).texts


@pytest.mark.usefixtures("birds")
def test_a_page_that_cannot_be_written_is_named(sightline: Command, tmp_path: Path) -> None:
    outcome = sightline("models", "report", "birds", "--html", tmp_path / "nowhere" / "report.html")
    assert outcome.code == 1
    assert "report.html cannot be read or written: No such file or directory" in outcome.err


def test_a_training_without_a_result_has_a_page(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    fakes.models["models/birds"] = Model(name="models/birds", state=Model.NOT_STARTED)
    page = made(sightline, tmp_path)
    assert "NOT_STARTED" in page.texts
    assert "Quality" not in page.texts


def test_curves_stay_within_their_frames() -> None:
    points = [Measured(images, value, value - 0.3, value + 0.3) for images, value in ((1, 0.2), (30, 0.95))]
    axes = Axes(EVIL, EVIL, EVIL)
    curve = Page(learning_curve(points, lambda images: 2 - images**-0.1, axes))
    assert all(20 <= float(one[side] or -1) <= 196 for one in curve.all("line") for side in ("y1", "y2"))
    assert learning_curve(points[:1], None, axes) == ""
    square = Page(unit_square({EVIL: [(0, -1), (2, 1)]}, axes))
    (line,) = square.all("polyline")
    assert line["points"] == "48.0,300.0 328.0,20.0 328.0,20.0"


def test_a_bin_of_confidences_is_a_dot_whose_area_grows_with_its_count() -> None:
    bins = [Reliable(0.25, 0.5, 25, 0.3, 0.7), Reliable(0.75, 1.0, 100, 0.9, 1.1), Reliable(0.9, 1.0, 1, 1.0, 1.0)]
    page = Page(reliability(bins, Axes(EVIL, EVIL, EVIL), "{confidence} {accuracy} {count}"))
    assert [(dot["cx"], dot["cy"], dot["r"]) for dot in page.all("circle")] == [
        ("118.0", "160.0", "4.5"),
        ("258.0", "20.0", "9.0"),
        ("300.0", "20.0", "2.5"),
    ]
    assert "25 % 50 % 25" in page.texts
    assert reliability([], Axes("", "", ""), "") == ""
