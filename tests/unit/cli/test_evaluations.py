"""`sightline evaluations` against fake services."""

from __future__ import annotations

import json

import grpc
import pytest

from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.finding_pb2 import Finding
from sightline.v1.model_pb2 import Model
from sightline.v1.performance_pb2 import Coverage, ModelPerformance, UnknownCategory
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status

E = "models/m/evaluations/e"
MESSAGE = "Left out 16 of the 24 images of datasets/t: '[bold]none ' (16 images)."


def performance(unknown: int = 0) -> ModelPerformance:
    measured = ModelPerformance(accuracy_top1=1.0, image_count=8, source=ModelPerformance.TEST_DATASET)
    measured.coverage.CopyFrom(Coverage(image_count=24, measured_image_count=8, unknown_image_count=unknown))
    measured.coverage.unknown_categories.append(UnknownCategory(name="[bold]none ", image_count=16))
    one = measured.calibration_bins.add(mean_confidence=0.9, accuracy=0.75, count=8)
    one.interval.low, one.interval.high = 0.4, 0.95
    measured.tag_performance["glass "].accuracy, measured.tag_performance["glass "].support = 1.0, 8
    return measured


@pytest.mark.parametrize("words", [("create", "m", "e", "--dataset", "t", "--wait"), ("show", "m", "e")])
def test_what_was_left_out_is_shown_next_to_the_metrics(
    sightline: Command, fakes: Fakes, words: tuple[str, ...]
) -> None:
    warning = Finding(severity=Finding.WARNING, code="categoriesUnknown", message=MESSAGE, remedy="Rename them.")
    fakes.evaluations[E] = Evaluation(
        name=E, state=Evaluation.SUCCEEDED, performance=performance(16), warnings=[warning]
    )
    outcome = sightline("evaluations", *words)
    assert outcome.code == 0, outcome.err
    for part in ("Quality on 8 of 24 images: the test dataset", "100.0 %", f"{MESSAGE} Rename them.", "'glass '"):
        assert part in outcome.out
    assert "90.0 % 75.0 % (40.0 % to 95.0 %) 8" in " ".join(outcome.out.split())
    answer = json.loads(sightline("evaluations", *words, "--json").out)
    assert answer["warnings"][0]["code"] == "categoriesUnknown"
    assert answer["performance"]["coverage"]["unknownImageCount"] == 16
    (unknown,) = answer["performance"]["coverage"]["unknownCategories"]
    assert (unknown["name"], unknown["imageCount"]) == ("[bold]none ", 16)


def test_the_evaluations_of_a_model_are_listed_with_their_quality(sightline: Command, fakes: Fakes) -> None:
    fakes.evaluations = {
        E: Evaluation(name=E, state=Evaluation.SUCCEEDED, test_dataset="datasets/t", performance=performance()),
        "models/other/evaluations/o": Evaluation(name="models/other/evaluations/o"),
    }
    shown = sightline("evaluations", "list", "m").out
    assert "e SUCCEEDED t 100.0 % top-1 accuracy on 8 of 24 images 0s" in " ".join(shown.split())
    assert [one["name"] for one in sightline("evaluations", "list", "m", "--json").json["evaluations"]] == [E]


def test_a_models_metric_is_always_shown_with_the_number_of_images_behind_it(sightline: Command, fakes: Fakes) -> None:
    fakes.models["models/m"] = Model(name="models/m", performance=performance(), warnings=[MESSAGE])
    shown = sightline("models", "show", "m").out
    assert "Quality on 8 of 24 images" in shown
    assert MESSAGE in shown
    assert "100.0 % top-1 accuracy on 8 of 24 images" in sightline("models", "list").out


def test_regions_that_were_left_out_are_shown_too(sightline: Command, fakes: Fakes) -> None:
    measured = ModelPerformance(mean_average_precision_50=0.5, image_count=24, source=ModelPerformance.TEST_DATASET)
    measured.coverage.CopyFrom(
        Coverage(image_count=24, measured_image_count=24, region_count=90, unknown_region_count=20)
    )
    fakes.models["models/m"] = Model(name="models/m", performance=measured)
    assert "Quality on 24 images and 70 of 90 regions" in sightline("models", "show", "m").out


def test_a_refused_evaluation_says_what_to_rename(sightline: Command, fakes: Fakes) -> None:
    message = "16 of the 24 images of datasets/t, more than half, have a category that the model does not know."
    fakes.errors["CreateEvaluation"] = [status(grpc.StatusCode.INVALID_ARGUMENT, "categoriesUnknown", message)]
    outcome = sightline("evaluations", "create", "m", "e", "--dataset", "t")
    assert outcome.code == 3
    assert message in outcome.err
    assert "fix: rename the categories" in outcome.err
