"""Two models side by side."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.gateway.studio.compare import rows
from services.kit.errors import ModelNotReady
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import ListDatasetsResponse
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import ListEvaluationsResponse
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
    known: dict[str, Any] = {"state": Evaluation.SUCCEEDED, "model_version": "v1"}
    return Evaluation(test_dataset=dataset, performance=found, **(known | changes))


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
ANSWERS: dict[str, Any] = {
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


@pytest.mark.parametrize(
    ("first", "second", "better"),
    [
        ((0.4, 0.5), (0.6, 0.7), 2),
        ((0.6, 0.7), (0.4, 0.5), 1),
        ((0.4, 0.6), (0.5, 0.7), 0),
        ((0.4, 0.5), (0.5, 0.6), 0),
    ],
)
def test_a_model_is_better_if_the_intervals_do_not_meet(first: Any, second: Any, better: int):
    (row,) = rows(performance(first[0], *first), performance(second[0], *second))
    assert row.better == better


def test_of_a_calibration_error_less_is_better_and_without_intervals_nothing_is_said():
    errors = [
        ModelPerformance(calibration_ece=value, intervals={"calibration_ece": Interval(low=value, high=value)})
        for value in (0.1, 0.2)
    ]
    assert rows(*errors)[0].better == 1
    assert rows(ModelPerformance(accuracy_top1=0), ModelPerformance(accuracy_top1=1))[0].better == 0
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
    for words in ("50.0 %", "80.0 %", "+30.0", "40.0 % – 55.0 %", "<td>b</td>"):
        assert words in page
    assert 'value="t"' in page
    assert 'value="boxes"' not in page
    assert 'value="bad"' not in page
    assert "<script>alert" not in chosen + page


async def test_different_numbers_of_images_and_nothing_in_common_are_said():
    few = {"models/a": EVALUATIONS["models/a"], "models/b": [evaluation("datasets/test", performance(1, 1, 1, 7))]}
    none = {"models/a": EVALUATIONS["models/a"], "models/b": list[Evaluation]()}
    pages: list[str] = []
    for found in (few, none):
        answers = ANSWERS | {
            "ListEvaluations": lambda request, found=found: ListEvaluationsResponse(evaluations=found[request.parent])
        }
        async with browser(answers) as one:
            pages.append((await one.open("/studio/models/a/compare?with=b")).text)
    assert "Compare with care: 100 images" in pages[0]
    assert "no measurement on the same test dataset" in pages[1]


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
