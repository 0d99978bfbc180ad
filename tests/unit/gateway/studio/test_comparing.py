"""Two models side by side."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.gateway.studio.compare import rows
from services.kit.errors import Draining, InvalidRequest, ModelNotReady
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import ListDatasetsResponse
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import CompareEvaluationsResponse, ListEvaluationsResponse
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import ListModelsResponse
from sightline.v1.performance_pb2 import Interval, ModelPerformance
from tests.support.studio import browser

HOSTILE = "<script>alert(1)</script>\"'"


def model(name: str, kind: Any = TrainingParameters.GENERIC_CLASSIFIER, version: str = "v1") -> Model:
    """A model with a bundle."""
    parameters = TrainingParameters(model_kind=kind)
    return Model(name=name, display_name=HOSTILE, model_version=version, training_parameters=parameters)


def performance(accuracy: float, low: float, high: float, count: int = 100) -> ModelPerformance:
    """What an evaluation measured."""
    return ModelPerformance(
        accuracy_top1=accuracy, intervals={"accuracy_top1": Interval(low=low, high=high)}, image_count=count
    )


def evaluation(dataset: str, found: ModelPerformance, **changes: Any) -> Evaluation:
    """One that has ended."""
    known: dict[str, Any] = {"state": Evaluation.SUCCEEDED, "model_version": "v1", "snapshot_digest": f"{dataset}@x"}
    known |= changes
    return Evaluation(name=known["snapshot_digest"], test_dataset=dataset, performance=found, **known)


MODELS = [
    model("models/a"),
    model("models/b"),
    model("models/detector", TrainingParameters.GENERIC_DETECTOR),
    model("models/untrained", version=""),
]
EVALUATIONS = {
    "models/a": [
        evaluation("datasets/test", performance(0.5, 0.4, 0.55), end_time=Timestamp(seconds=1)),
        evaluation("datasets/other", performance(0.1, 0.1, 0.1)),
    ],
    "models/b": [
        evaluation("datasets/test", performance(0.8, 0.7, 0.9), end_time=Timestamp(seconds=9)),
        evaluation("datasets/test", performance(0.1, 0.1, 0.1), end_time=Timestamp(seconds=2)),
        evaluation("datasets/test", performance(0.2, 0.2, 0.2), model_version="v0", end_time=Timestamp(seconds=99)),
        evaluation("datasets/test", performance(0.3, 0.3, 0.3), state=Evaluation.RUNNING),
    ],
}
TESTED = CompareEvaluationsResponse(
    metric="accuracy_top1",
    difference=0.3,
    interval=Interval(low=0.2, high=0.4),
    p_value=0.0001,
    image_count=1100,
    first_only_right_count=10,
    second_only_right_count=50,
    both_right_count=1040,
)
ANSWERS: dict[str, Any] = {
    "CompareEvaluations": lambda request: TESTED,
    "GetModel": lambda request: next(one for one in MODELS if one.name == request.name),
    "ListModels": lambda request: ListModelsResponse(models=MODELS),
    "ListEvaluations": lambda request: ListEvaluationsResponse(evaluations=EVALUATIONS[request.parent]),
    "ListDatasets": lambda request: ListDatasetsResponse(
        datasets=[
            Dataset(
                name="datasets/t",
                display_name=HOSTILE,
                state=Dataset.READY,
                annotation_kind=Dataset.IMAGE_CLASSIFICATION,
            ),
            Dataset(name="datasets/boxes", state=Dataset.READY, annotation_kind=Dataset.OBJECT_DETECTION),
            Dataset(name="datasets/bad", state=Dataset.FAILED, annotation_kind=Dataset.IMAGE_CLASSIFICATION),
        ]
    ),
}


def test_metrics_that_both_have_are_side_by_side():
    (row,) = rows(performance(0.5, 0.4, 0.6), performance(0.75, 0.7, 0.8))
    assert (row.name, row.change) == ("accuracy_top1", 0.25)
    assert rows(ModelPerformance(accuracy_top1=0), ModelPerformance(average_precision=1)) == []


async def test_the_latest_results_of_the_served_versions_on_the_same_test_dataset_are_side_by_side():
    async with browser(ANSWERS) as one:
        chosen = (await one.open("/studio/models/a/compare")).text
        page = (await one.open("/studio/models/a/compare?with=b")).text
    assert 'value="b"' in chosen
    for absent in ('value="a"', 'value="detector"', 'value="untrained"'):
        assert absent not in chosen
    assert "On test" in page
    assert "On other" not in page
    for words in ("50.0 %", "80.0 %", "+30.0", "40.0 % – 55.0 %", "Both are right on 1,040 images"):
        assert words in page
    assert "is better: its accuracy is higher by 30.0 points (20.0 to 40.0) on the same 1,100 images" in page
    (asked,) = one.requests("CompareEvaluations")
    assert asked.first_evaluation.endswith("datasets/test@x")
    assert asked.second_evaluation.endswith("datasets/test@x")
    assert 'value="t"' in page
    assert 'value="boxes"' not in page
    assert 'value="bad"' not in page
    assert "<script>alert" not in chosen + page


@pytest.mark.parametrize(
    ("difference", "p_value", "says"),
    [
        (-0.02, 0.3, "which is better: &lt;script"),
        (0.02, 0.3, "ahead by 2.0 points of accuracy (1.0 to 3.0), which may be chance (p = 0.3)"),
        (-0.02, 0.012, "is better: its accuracy is higher by 2.0 points (1.0 to 3.0)"),
        (0.02, 0.0001, "(p = less than 0.001)"),
    ],
)
async def test_the_verdict_of_the_paired_test_is_a_sentence(difference: float, p_value: float, says: str):
    low, high = sorted((difference / 2, difference * 1.5))
    tested = CompareEvaluationsResponse(
        metric="accuracy_top1", difference=difference, p_value=p_value, interval=Interval(low=low, high=high)
    )
    async with browser(ANSWERS | {"CompareEvaluations": lambda request: tested}) as one:
        page = (await one.open("/studio/models/a/compare?with=b")).text
    assert says in page


async def test_where_there_is_no_test_the_metrics_are_shown_with_the_reason():
    def refuse(request: Any) -> Any:
        raise InvalidRequest(field="second_evaluation", problem="no image in common")

    def broken(request: Any) -> Any:
        raise Draining(service="trainer")

    async with browser(ANSWERS | {"CompareEvaluations": refuse}) as one:
        page = (await one.open("/studio/models/a/compare?with=b")).text
    assert "no image in common" in page
    assert "+30.0" in page
    async with browser(ANSWERS | {"CompareEvaluations": broken}) as one:
        assert (await one.open("/studio/models/a/compare?with=b")).status_code == 503


async def test_different_numbers_of_images_changed_datasets_and_nothing_in_common_are_said():
    few = [evaluation("datasets/test", performance(1, 1, 1, 7))]
    changed = [evaluation("datasets/test", performance(1, 1, 1), snapshot_digest="y")]
    pages: list[str] = []
    for found in (few, changed, list[Evaluation]()):
        of = {"models/a": EVALUATIONS["models/a"], "models/b": found}
        answers = ANSWERS | {
            "ListEvaluations": lambda request, of=of: ListEvaluationsResponse(evaluations=of[request.parent])
        }
        async with browser(answers) as one:
            pages.append((await one.open("/studio/models/a/compare?with=b")).text)
    assert "100 images were measured for the first model, 7 for the second" in pages[0]
    assert "Both were measured on test, but it has changed in between" in pages[1]
    assert "no measurement on the same test dataset" in pages[2]


async def test_both_are_measured_once_both_can_be():
    refused = ANSWERS | {"CreateEvaluation": _refuse}
    async with browser(ANSWERS | {"CreateEvaluation": lambda request: Evaluation()}) as one, browser(refused) as other:
        for each in (one, other):
            await each.open("/studio/models/a/compare?with=b")
        response = await one.post("/studio/models/a/measure", dataset="t", **{"with": "b"})
        failed = await other.post("/studio/models/a/measure", dataset="t", **{"with": "b"})
    begun = [(each.parent, each.validate_only) for each in one.requests("CreateEvaluation")]
    assert begun == [("models/a", True), ("models/b", True), ("models/a", False), ("models/b", False)]
    assert {each.evaluation.test_dataset for each in one.requests("CreateEvaluation")} == {"datasets/t"}
    assert response.headers["location"] == "/studio/models/a"
    assert failed.status_code == 400
    assert all(each.validate_only for each in other.requests("CreateEvaluation"))


def _refuse(request: Any) -> Evaluation:
    if request.parent == "models/b":
        raise ModelNotReady(name="models/b", state="TRAINING", remedy="wait")
    return Evaluation()


@pytest.mark.parametrize(("roles", "offered"), [(("viewer",), False), (("trainer",), True)])
async def test_measuring_is_offered_to_whom_it_is_allowed(roles: tuple[str, ...], offered: bool):
    async with browser(ANSWERS, roles=roles) as one:
        page = (await one.open("/studio/models/a/compare?with=b")).text
    assert ("/models/a/measure" in page) == offered
