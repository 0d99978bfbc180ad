"""`sightline models compare` against fake services."""

from __future__ import annotations

import json

import pytest

from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import CompareEvaluationsRequest
from sightline.v1.model_pb2 import Model
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes


@pytest.fixture
def two(fakes: Fakes) -> Fakes:
    """Models a and b, both measured on datasets/t."""
    for name in ("a", "b"):
        fakes.models[f"models/{name}"] = Model(name=f"models/{name}", model_version="v")
        made = Evaluation(name=f"models/{name}/evaluations/e", state=Evaluation.SUCCEEDED, model_version="v")
        made.test_dataset, made.snapshot_digest = "datasets/t", "sha256:x"
        fakes.evaluations[made.name] = made
    answer = fakes.compared
    answer.metric, answer.image_count = "accuracy_top1", 120
    answer.first_value, answer.second_value, answer.difference, answer.p_value = 0.9, 0.931, 0.031, 0.02
    answer.interval.low, answer.interval.high = 0.004, 0.059
    answer.first_only_right_count, answer.second_only_right_count, answer.both_right_count = 3, 7, 105
    return fakes


def test_it_is_said_which_model_is_better_and_by_how_much(sightline: Command, two: Fakes) -> None:
    outcome = sightline("models", "compare", "a", "b", "--dataset", "t")
    assert outcome.code == 0, outcome.err
    out = " ".join(outcome.out.split())
    for part in (
        "a 90.0 % top-1 accuracy",
        "b 93.1 % top-1 accuracy",
        "120 images",
        "both 105, only the first 3, only the second 7, none 5",
        "b is better by 3.1 points (0.4 to 5.9), p = 0.02",
    ):
        assert part in out
    assert "left out" not in out
    assert isinstance(two.requests[-1], CompareEvaluationsRequest)


def test_what_was_left_out_is_said(sightline: Command, two: Fakes) -> None:
    two.compared.ClearField("both_right_count")
    two.compared.metric, two.compared.left_out_image_count = "mean_average_precision_50", 4
    two.compared.left_out_categories.extend(["[bold]owl", " wren"])
    out = " ".join(sightline("models", "compare", "a", "b").out.split())
    assert "4 images whose category only one of them knows" in out
    assert "[bold]owl, ' wren'" in out
    assert "only the first" not in out


def test_the_answer_is_json_too_and_without_evaluations_it_is_said_what_to_measure(
    sightline: Command, two: Fakes
) -> None:
    assert json.loads(sightline("models", "compare", "a", "b", "--json").out)["pValue"] == 0.02
    two.evaluations.clear()
    outcome = sightline("models", "compare", "a", "b")
    assert outcome.code != 0
    assert "sightline evaluations create a NAME" in outcome.err
