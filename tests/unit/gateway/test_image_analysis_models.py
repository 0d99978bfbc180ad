"""Models and evaluations as clients of Image Analysis 4.0 know them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.gateway.image_analysis.errors import FIELDS
from services.kit.errors import (
    DatasetAnnotationsInvalid,
    DatasetNotFound,
    Failure,
    InvalidName,
    NotEnoughBudget,
    OutOfMemory,
    WrongState,
)
from services.kit.status import failure_to_status
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import CreateDatasetRequest, WatchDatasetResponse
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import CreateEvaluationRequest, ListEvaluationsResponse
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import CreateModelRequest, ListModelsResponse
from sightline.v1.performance_pb2 import ModelPerformance, TagPerformance
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest
from tests.support import fields
from tests.support.gateway import front

PATH = "/computervision/models/m?api-version=2023-02-01-preview"
EVALUATION = "/computervision/models/m/evaluations/e?api-version=2023-04-01-preview"
TIMES: dict[str, Any] = {
    "create_time": Timestamp(seconds=1_700_000_000),
    "update_time": Timestamp(seconds=1_700_000_001),
}
BUDGET = TrainingParameters(
    training_dataset="datasets/birds",
    time_budget=Duration(seconds=90),
    model_kind=TrainingParameters.GENERIC_CLASSIFIER,
)
PERFORMANCE = ModelPerformance(
    accuracy_top1=0.75,
    accuracy_top5=1.0,
    average_precision=0.875,
    calibration_ece=0.125,
    tag_performance={"owl": TagPerformance(accuracy=0.5, average_precision_50=0.25, support=3)},
)


def model(state: Model.State.ValueType = Model.SUCCEEDED, **changes: Any) -> Model:
    """A model."""
    fields: dict[str, Any] = {"name": "models/m", "training_parameters": BUDGET, "state": state, "etag": "5"}
    return Model(**fields | TIMES | changes)


def evaluation(state: Evaluation.State.ValueType, **changes: Any) -> Evaluation:
    """An evaluation of the model."""
    fields: dict[str, Any] = {"name": "models/m/evaluations/e", "test_dataset": "datasets/test", "state": state}
    return Evaluation(**fields | TIMES | changes)


@pytest.mark.parametrize("hours", [0.005, 1, 2.5])
async def test_a_model_is_created_with_keys_in_pascal_case(hours: float):
    body = {
        "TrainingParameters": {
            "TrainingDatasetName": "birds",
            "TimeBudgetInHours": hours,
            "ModelKind": "Generic-Classifier",
        },
        "EvaluationParameters": {"TestDatasetName": "test"},
    }
    async with front({"CreateModel": lambda request: model(Model.NOT_STARTED)}) as gateway:
        response = await gateway("PUT", PATH, json=body)
    (request,) = gateway.requests("CreateModel")
    assert response.status_code == 201
    assert request.model_id == "m"
    assert request.model.training_parameters.training_dataset == "datasets/birds"
    assert request.model.training_parameters.time_budget.ToTimedelta() == timedelta(hours=hours)
    assert request.model.training_parameters.model_kind == TrainingParameters.GENERIC_CLASSIFIER
    assert request.model.evaluation_parameters.test_dataset == "datasets/test"


@pytest.mark.parametrize(
    ("parameters", "target"),
    [
        (None, "trainingParameters"),
        ({"timeBudgetInHours": 1, "modelKind": "Generic-Classifier"}, "trainingParameters.trainingDatasetName"),
        ({"trainingDatasetName": "d", "modelKind": "Generic-Detector"}, "trainingParameters.timeBudgetInHours"),
        ({"trainingDatasetName": "d", "timeBudgetInHours": 0, "modelKind": "Generic-Detector"},
         "trainingParameters.timeBudgetInHours"),
        ({"trainingDatasetName": "d", "timeBudgetInHours": 10**400, "modelKind": "Generic-Detector"},
         "trainingParameters.timeBudgetInHours"),
        ({"trainingDatasetName": "d", "timeBudgetInHours": "1", "modelKind": "Generic-Detector"},
         "trainingParameters.timeBudgetInHours"),
        ({"trainingDatasetName": "d", "timeBudgetInHours": 1, "modelKind": "Product-Recognizer"},
         "trainingParameters.modelKind"),
    ],
)  # fmt: skip
async def test_wrong_parameters_are_refused_by_the_field_at_fault(parameters: Any, target: str):
    async with front({}) as gateway:
        response = await gateway("PUT", PATH, json={"trainingParameters": parameters})
    assert response.status_code == 400
    assert response.json()["error"]["target"] == target


async def test_a_budget_that_is_too_small_is_refused_with_the_one_that_would_do():
    def refuse(request: Any) -> Model:
        raise NotEnoughBudget(
            budget_seconds=1, dataset="datasets/birds", image_count=48, minimum_seconds=3, suggested_seconds=66
        )

    parameters = {"trainingDatasetName": "birds", "timeBudgetInHours": 0.0003, "modelKind": "Generic-Classifier"}
    async with front({"CreateModel": refuse}) as gateway:
        response = await gateway("PUT", PATH, json={"trainingParameters": parameters})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == response.headers["x-ms-error-code"] == "notEnoughBudget"
    assert "66 s is suggested" in response.json()["error"]["message"]
    assert response.json()["error"]["target"] == "trainingParameters.timeBudgetInHours"


async def test_a_field_that_the_service_refuses_has_the_name_that_the_api_gives_it():
    def refuse(request: Any) -> Model:
        raise InvalidName(field="model.training_parameters.training_dataset", value="a b", expected="letters")

    parameters = {"trainingDatasetName": "a b", "timeBudgetInHours": 1, "modelKind": "Generic-Classifier"}
    async with front({"CreateModel": refuse}) as gateway:
        error = (await gateway("PUT", PATH, json={"trainingParameters": parameters})).json()["error"]
    assert error["target"] == "trainingParameters.trainingDatasetName"
    assert error["message"].startswith("trainingParameters.trainingDatasetName: 'a b' is not a valid name")


@pytest.mark.parametrize("field", FIELDS)
def test_every_renamed_field_is_one_of_a_request(field: str):
    requests = CreateDatasetRequest, CreateModelRequest, CreateEvaluationRequest, AnalyzeImageRequest
    assert any(fields.has(request.DESCRIPTOR, field) for request in requests)


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (Model.NOT_STARTED, "notStarted"),
        (Model.TRAINING, "training"),
        (Model.SUCCEEDED, "succeeded"),
        (Model.FAILED, "failed"),
        (Model.CANCELLING, "cancelling"),
        (Model.CANCELLED, "cancelled"),
    ],
)
async def test_a_model_in_every_state_has_its_word_its_times_and_whole_numbers(state: Any, word: str):
    found = model(state, training_cost=Duration(seconds=61), performance=PERFORMANCE)
    async with front({"GetModel": lambda request: found}) as gateway:
        answer = (await gateway("GET", PATH)).json()
    ended = state in (Model.SUCCEEDED, Model.FAILED, Model.CANCELLED)
    assert answer["status"] == word
    assert answer["trainingParameters"] == {
        "trainingDatasetName": "birds",
        "timeBudgetInHours": 1,
        "modelKind": "Generic-Classifier",
    }
    assert answer.get("trainingCostInMinutes") == (2 if ended else None)
    assert ("modelPerformance" in answer) == (state in (Model.SUCCEEDED, Model.CANCELLED))
    assert ("error" in answer) == (state == Model.FAILED)
    assert "evaluationParameters" not in answer
    assert answer["createdDateTime"] < answer["updatedDateTime"]


async def test_every_state_of_the_contract_has_a_word():
    from services.gateway.image_analysis import wire

    assert wire.MODEL_STATES.keys() == set(Model.State.values()) - {Model.STATE_UNSPECIFIED}
    assert wire.EVALUATION_STATES.keys() == set(Evaluation.State.values()) - {Evaluation.STATE_UNSPECIFIED}


async def test_a_classifier_and_a_detector_have_their_metrics_and_those_of_their_tags():
    boxes = ModelPerformance(
        mean_average_precision_30=0.5,
        mean_average_precision_50=0.25,
        mean_average_precision_75=0.0,
        tag_performance={"fork": TagPerformance(average_precision_50=0.25)},
    )
    async with front({"GetModel": lambda request: model(performance=PERFORMANCE)}) as gateway:
        classifier = (await gateway("GET", PATH)).json()["modelPerformance"]
    async with front({"GetModel": lambda request: model(performance=boxes)}) as gateway:
        detector = (await gateway("GET", PATH)).json()["modelPerformance"]
    assert classifier == {
        "accuracyTop1": 0.75,
        "accuracyTop5": 1.0,
        "averagePrecision": 0.875,
        "calibrationECE": 0.125,
        "tagPerformance": {"owl": {"accuracy": 0.5}},
    }
    assert detector == {
        "meanAveragePrecision30": 0.5,
        "meanAveragePrecision50": 0.25,
        "meanAveragePrecision75": 0.0,
        "tagPerformance": {"fork": {"averagePrecision50": 0.25}},
    }


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (DatasetNotFound(name="datasets/birds"), "datasetNotFound", None),
        (OutOfMemory(trial="models/m/trials/t000", batch_size=1), "unknown", "outOfMemory"),
    ],
)
async def test_a_failed_training_says_why_in_the_codes_of_the_api(error: Any, code: str, details: str | None):
    failure: Failure = error.failure()
    async with front({"GetModel": lambda request: model(Model.FAILED, error=failure_to_status(failure))}) as gateway:
        found = (await gateway("GET", PATH)).json()["error"]
    assert found["code"] == code
    assert found["message"] == error.message
    assert [one["code"] for one in found.get("details", [])] == ([details] if details else [])
    assert found.keys() <= {"code", "message", "target", "details"}


async def test_a_cancellation_is_accepted_with_the_model_as_its_body():
    async with front({"CancelModel": lambda request: model(Model.CANCELLING)}) as gateway:
        response = await gateway("POST", "/computervision/models/m:cancel?api-version=2023-04-01-preview")
    assert response.status_code == 202
    assert response.json()["status"] == "cancelling"
    assert gateway.requests("CancelModel")[0].name == "models/m"


async def test_only_a_model_that_has_ended_is_deleted():
    def refuse(request: Any) -> None:
        raise WrongState(name="models/m", state="TRAINING", verb="deleting", allowed="SUCCEEDED")

    async with front({"GetModel": lambda request: model(), "DeleteModel": lambda request: None}) as gateway:
        done = await gateway("DELETE", PATH)
    async with front({"GetModel": lambda request: model(Model.TRAINING), "DeleteModel": refuse}) as gateway:
        refused = await gateway("DELETE", PATH)
    assert (done.status_code, done.content) == (204, b"")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "WrongState")


async def test_models_and_evaluations_are_listed():
    answers: dict[str, Any] = {
        "ListModels": lambda request: ListModelsResponse(models=[model(Model.TRAINING)]),
        "ListEvaluations": lambda request: ListEvaluationsResponse(evaluations=[evaluation(Evaluation.RUNNING)]),
    }
    async with front(answers) as gateway:
        models = (await gateway("GET", "/computervision/models")).json()
        evaluations = (await gateway("GET", "/computervision/models/m/evaluations")).json()
    assert [one["status"] for one in models["value"]] == ["training"]
    assert [one["modelName"] for one in evaluations["value"]] == ["m"]
    assert gateway.requests("ListEvaluations")[0].parent == "models/m"


@pytest.mark.parametrize(
    ("state", "word", "has"),
    [
        (Evaluation.NOT_STARTED, "notStarted", set[str]()),
        (Evaluation.RUNNING, "running", set[str]()),
        (Evaluation.SUCCEEDED, "succeeded", {"modelPerformance"}),
        (Evaluation.FAILED, "failed", {"error"}),
    ],
)
async def test_an_evaluation_in_every_state(state: Any, word: str, has: set[str]):
    failure = failure_to_status(DatasetAnnotationsInvalid(file="a.json", problem="none").failure())
    found = evaluation(state, performance=PERFORMANCE, error=failure)
    async with front({"GetEvaluation": lambda request: found}) as gateway:
        answer = (await gateway("GET", EVALUATION)).json()
    base = {"name", "modelName", "evaluationParameters", "status", "createdDateTime", "updatedDateTime"}
    assert answer.keys() == base | has
    assert answer["status"] == word
    assert answer.get("error", {}).get("code") in (None, "datasetAnnotationsInvalid")


async def test_an_evaluation_waits_until_its_dataset_is_checked():
    checked = [Dataset(state=Dataset.VALIDATING), Dataset(state=Dataset.READY)]
    answers: dict[str, Any] = {
        "WatchDataset": lambda request: [WatchDatasetResponse(dataset=one) for one in checked],
        "CreateEvaluation": lambda request: evaluation(Evaluation.NOT_STARTED),
    }
    async with front(answers) as gateway:
        response = await gateway("PUT", EVALUATION, json={"evaluationParameters": {"testDatasetName": "test"}})
    (request,) = gateway.requests("CreateEvaluation")
    assert response.status_code == 201
    assert [one.rpc for one in gateway.seen] == ["WatchDataset", "CreateEvaluation"]
    assert (request.parent, request.evaluation_id) == ("models/m", "e")
    assert request.evaluation.test_dataset == "datasets/test"


async def test_only_an_evaluation_that_has_ended_is_deleted():
    states = iter([Evaluation.RUNNING, Evaluation.FAILED])
    answers: dict[str, Any] = {
        "GetEvaluation": lambda request: evaluation(next(states)),
        "DeleteEvaluation": lambda request: None,
    }
    async with front(answers) as gateway:
        refused = await gateway("DELETE", EVALUATION)
        done = await gateway("DELETE", EVALUATION)
    assert (refused.status_code, done.status_code) == (400, 204)
    assert len(gateway.requests("DeleteEvaluation")) == 1
