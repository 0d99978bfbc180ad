"""The trainer as a caller sees it: models, trials and evaluations over real gRPC, every error with its reason."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_status.rpc_status import from_call

from services.infra.server import Server, Service
from services.kit.blobs import BlobInfo
from services.kit.clock import SystemClock
from services.kit.errors import Unavailable
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.quotas import UNLIMITED
from services.kit.telemetry import MemoryTelemetry
from services.trainer import metrics, waiting
from services.trainer.app import Models
from services.trainer.domain import ModelState, Trial
from services.trainer.estimates import Estimates
from services.trainer.evaluations import Evaluations
from services.trainer.exports import Exports
from services.trainer.insight import (
    CategoryGain,
    CurvePoint,
    Doubt,
    DoubtKind,
    Gain,
    Insight,
    LearningCurve,
    Mistake,
    PowerLaw,
    no_curve,
)
from services.trainer.performance import Coverage, Interval, UnknownCategory
from services.trainer.quotas import Quotas
from services.trainer.reconcile.coordinator import Coordinator
from services.trainer.reconcile.counts import Counts
from services.trainer.rpc import EvaluationServicer, ModelServicer
from services.trainer.settings import TrainerSettings
from services.trainer.store import Store
from services.trainer.waiting import Waits
from services.trainer.worker.attempt import Attempt
from sightline.client.transport.channel import describe
from sightline.v1 import evaluation_pb2, finding_pb2, insight_pb2, model_pb2, progress_pb2, trial_pb2
from sightline.v1 import evaluation_service_pb2 as epb
from sightline.v1 import model_service_pb2 as pb
from sightline.v1.evaluation_service_pb2_grpc import (
    EvaluationServiceStub,
    add_EvaluationServiceServicer_to_server,
)
from sightline.v1.model_service_pb2_grpc import ModelServiceStub, add_ModelServiceServicer_to_server
from tests.support.waiting import eventually
from tests.unit.trainer.support import DIGEST, TTL, FakeDatasets, QuickWorker, dataset, predictions, running

CLASSIFIER = model_pb2.TrainingParameters.GENERIC_CLASSIFIER
DETECTOR = model_pb2.TrainingParameters.GENERIC_DETECTOR
BOXES = {"training_dataset": "datasets/boxes"}
M = "models/m"
E = "models/m/evaluations/e"


def request(id_: str = "m", **changes: Any) -> pb.CreateModelRequest:
    """By default, ten minutes for a classifier of birds."""
    parameters = model_pb2.TrainingParameters(
        training_dataset=changes.pop("training_dataset", "datasets/birds"),
        time_budget=Duration(seconds=changes.pop("budget", 600)),
        model_kind=changes.pop("kind", CLASSIFIER),
        base_model=changes.pop("base_model", ""),
        hyperparameters=changes.pop("hyperparameters", None),
    )
    model = model_pb2.Model(
        training_parameters=parameters,
        display_name=changes.pop("display_name", ""),
        custom_properties=changes.pop("custom_properties", {}),
    )
    if test := changes.pop("test_dataset", ""):
        model.evaluation_parameters.test_dataset = test
    return pb.CreateModelRequest(model=model, model_id=id_, **changes)


class World:
    """A trainer api over in-memory doubles, with coordinator and worker driven step by step."""

    def __init__(self, store: Store, records: MemoryRecords) -> None:
        self.store = store
        self.clock, self.blobs, self.queue = SystemClock(), MemoryBlobs(), MemoryQueue()
        self.datasets = FakeDatasets(
            dataset(),
            dataset("datasets/test", image_count=20),
            dataset("datasets/boxes", annotation_kind="OBJECT_DETECTION"),
            dataset("datasets/more-boxes", annotation_kind="OBJECT_DETECTION", image_count=20),
        )
        self.coordinator = Coordinator(store, self.datasets, self.blobs, self.queue, self.clock, MemoryTelemetry())
        self.worker = QuickWorker(records, self.blobs, self.queue, self.clock)
        self.telemetry = MemoryTelemetry()
        self.models: Any = None
        self.evaluations: Any = None

    def services(self) -> list[Service]:
        counts = Counts(self.store, self.clock, MemoryTelemetry())
        quotas = Quotas(self.store, lambda _: UNLIMITED, self.clock)
        models = Models(self.store, self.datasets, self.blobs, self.clock, counts, quotas)
        evaluations = Evaluations(self.store, self.datasets, self.blobs, self.clock, counts, quotas)
        waits = Waits(self.store, self.queue, self.datasets, self.clock)
        return [
            Service(
                pb.DESCRIPTOR.services_by_name["ModelService"],
                add_ModelServiceServicer_to_server,
                ModelServicer(
                    models,
                    self.estimates(),
                    Exports(self.store, self.blobs, waits, self.clock, self.telemetry),
                    self.store,
                    waits,
                    self.blobs.bucket,
                    self.clock,
                ),
            ),
            Service(
                epb.DESCRIPTOR.services_by_name["EvaluationService"],
                add_EvaluationServiceServicer_to_server,
                EvaluationServicer(evaluations, self.store),
            ),
        ]

    def estimates(self) -> Estimates:
        return Estimates(self.store, self.datasets, self.blobs, self.clock, self.telemetry)

    async def step(self) -> None:
        """One reconciliation pass, then all work that is due."""
        await self.coordinator.reconcile()
        await self.worker.work_off()
        await asyncio.sleep(0.01)

    async def get(self, name: str = M, view: Any = model_pb2.Model.BASIC) -> model_pb2.Model:
        return await self.models.GetModel(pb.GetModelRequest(name=name, view=view))

    async def trained(self, id_: str = "m", **changes: Any) -> model_pb2.Model:
        """Creates a model; returns it once its training has ended."""
        await self.models.CreateModel(request(id_, **changes))
        for _ in range(50):
            await self.step()
            if (found := await self.get(f"models/{id_}")).state in (model_pb2.Model.SUCCEEDED, model_pb2.Model.FAILED):
                return found
        raise AssertionError(f"it never ended: {await self.get(f'models/{id_}')}")

    async def evaluate(self, id_: str = "e", **changes: Any) -> evaluation_pb2.Evaluation:
        evaluation = evaluation_pb2.Evaluation(test_dataset=changes.pop("test_dataset", "datasets/test"))
        message = epb.CreateEvaluationRequest(parent=M, evaluation=evaluation, evaluation_id=id_, **changes)
        return await self.evaluations.CreateEvaluation(message)


@pytest.fixture
async def trainer() -> AsyncIterator[World]:
    async with world() as made:
        yield made


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    records = MemoryRecords()
    async with running(records) as store:
        made = World(store, records)
        settings = TrainerSettings(port=0, drain_seconds=0.0, grace_seconds=0.5)
        server = Server("trainer", settings, MemoryTelemetry(), made.services(), store.is_synced)
        port = await server.start()
        stop = asyncio.Event()
        serving = asyncio.create_task(server.run_until(stop))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            made.models, made.evaluations = ModelServiceStub(channel), EvaluationServiceStub(channel)
            yield made
        stop.set()
        await serving


async def refused(call: Awaitable[Any], code: grpc.StatusCode, reason: str, *words: str) -> dict[str, str]:
    """Asserts that the call fails with this error; returns the error's metadata."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    rich = describe(caught.value)
    assert (caught.value.code(), rich.reason) == (code, reason), rich
    for word in words:
        assert word in rich.message, rich.message
    return dict(rich.metadata)


async def fields_at_fault(call: Awaitable[Any]) -> list[str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = from_call(caught.value)  # pyright: ignore[reportArgumentType] - it has what a call has
    assert status is not None
    found = BadRequest()
    for detail in status.details:
        if detail.Unpack(found):
            return [violation.field for violation in found.field_violations]
    raise AssertionError(f"no BadRequest in {status}")


INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION, ABORTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED


# Creating.


async def test_a_model_keeps_the_version_of_the_dataset_that_its_training_began_with(trainer: World) -> None:
    trainer.datasets.put(dataset(version=3))
    await trainer.models.CreateModel(request())
    assert (await trainer.get()).training_dataset_version == 0
    while (await trainer.get()).state == model_pb2.Model.NOT_STARTED:
        await trainer.step()
    trainer.datasets.put(dataset(version=4, state="VALIDATING", digest="", manifest_key=""))
    await trainer.step()
    trainer.datasets.put(dataset(version=4, digest="sha256:4", manifest_key="datasets/birds/uid/4.json"))
    while (found := await trainer.get()).state != model_pb2.Model.SUCCEEDED:
        await trainer.step()
    assert (found.training_dataset_version, found.snapshot_digest) == (3, DIGEST)


async def test_a_model_is_created_in_not_started_and_trained_to_its_end(trainer: World) -> None:
    created = await trainer.models.CreateModel(request(display_name="Birds", custom_properties={"team": "a"}))
    assert (created.name, created.state) == (M, model_pb2.Model.NOT_STARTED)
    assert created.progress.phase == model_pb2.TrainingProgress.WAITING_FOR_DATASET
    assert created.etag
    assert created.training_parameters.time_budget.ToTimedelta() == timedelta(minutes=10)
    while (found := await trainer.get()).state != model_pb2.Model.SUCCEEDED:
        await trainer.step()
    assert (found.display_name, dict(found.custom_properties)) == ("Birds", {"team": "a"})
    assert found.stop_reason != model_pb2.Model.STOP_REASON_UNSPECIFIED
    assert found.best_trial.startswith("models/m/trials/")
    assert found.bundle_uri.startswith("s3://sightline/models/m/")
    assert found.bundle_uri.endswith("/")
    assert found.performance.accuracy_top1 == 0.8
    assert list(found.categories) == ["owl", "wren"]
    assert found.snapshot_digest == DIGEST
    assert found.progress.phase == model_pb2.TrainingProgress.FINISHED
    assert found.progress.fraction == 1
    assert found.create_time.ToDatetime() <= found.start_time.ToDatetime() <= found.end_time.ToDatetime()


async def test_the_ledger_in_the_full_view_adds_up_to_the_training_cost(trainer: World) -> None:
    trainer.worker.spends = timedelta(microseconds=1_234_567)
    await trainer.trained(test_dataset="datasets/test")
    basic, full = await trainer.get(), await trainer.get(view=model_pb2.Model.FULL)
    assert not basic.ledger
    assert not basic.performance.HasField("confusion_matrix")
    total = sum((entry.duration.ToTimedelta() for entry in full.ledger if entry.charged), timedelta())
    assert total == full.training_cost.ToTimedelta() == basic.training_cost.ToTimedelta()
    assert {entry.reason for entry in full.ledger} == {"finished"}
    assert full.ledger[-1].trial == "models/m/evaluations/final"
    assert full.performance.source == full.performance.TEST_DATASET
    assert list(full.performance.confusion_matrix.categories) == ["category 0", "category 1"]


async def test_the_full_view_has_the_thresholds_that_the_served_bundle_suggests(trainer: World) -> None:
    await trainer.models.CreateModel(request())
    assert not (await trainer.get(view=model_pb2.Model.FULL)).suggested_thresholds, "there is no bundle yet"
    while (await trainer.get()).state != model_pb2.Model.SUCCEEDED:
        await trainer.step()
    assert not (await trainer.get()).suggested_thresholds
    assert (await trainer.get(view=model_pb2.Model.FULL)).suggested_thresholds == {"owl": 0.25, "wren": 0.75}


async def test_a_detector_without_its_own_thresholds_suggests_those_that_it_applies(trainer: World) -> None:
    await trainer.trained(kind=DETECTOR, **BOXES)
    assert (await trainer.get(view=model_pb2.Model.FULL)).suggested_thresholds == {"owl": 0.3, "wren": 0.3}


async def test_a_ledger_that_another_replica_has_just_closed_is_awaited(trainer: World) -> None:
    await trainer.models.CreateModel(request())
    for _ in range(2):
        await trainer.coordinator.reconcile()
    now = trainer.clock.now()
    ended = {"end_time": now, "training_cost": timedelta(seconds=2)}
    await trainer.store.models.change(
        M, lambda model: model.moved(ModelState.CANCELLING, now).moved(ModelState.CANCELLED, now, **ended)
    )
    reading = asyncio.create_task(trainer.get(view=model_pb2.Model.FULL))
    await asyncio.sleep(0.1)
    assert not reading.done()
    attempt = await Attempt[Trial].begin(trainer.store.trials.table, f"{M}/trials/t000", "w", trainer.clock, TTL, 1.0)
    assert attempt is not None
    await attempt.succeed(timedelta(seconds=2))
    full = await reading
    assert full.training_cost.seconds == sum(entry.duration.seconds for entry in full.ledger) == 2


async def test_validate_only_returns_the_model_and_writes_nothing(trainer: World) -> None:
    answer = await trainer.models.CreateModel(request(validate_only=True))
    assert (answer.name, answer.etag) == (M, "")
    await refused(trainer.get(), MISSING, "ModelNotFound", M)
    await refused(
        trainer.models.CreateModel(request(validate_only=True, budget=1)),
        PRECONDITION,
        "notEnoughBudget",
        "the minimum is",
    )


async def test_a_repeated_request_gets_the_first_response_and_a_different_one_does_not(trainer: World) -> None:
    first = await trainer.models.CreateModel(request(request_id="r1"))
    again = await trainer.models.CreateModel(request(request_id="r1", budget=1))
    assert again == first
    for other in (request(request_id="r2"), request(), request(validate_only=True)):
        await refused(
            trainer.models.CreateModel(other),
            grpc.StatusCode.ALREADY_EXISTS,
            "ModelAlreadyExists",
            M,
            "choose another id",
        )


async def test_a_model_may_be_created_before_its_dataset_is_validated(trainer: World) -> None:
    trainer.datasets.put(dataset(state="VALIDATING", image_count=0, categories=()))
    created = await trainer.models.CreateModel(request())
    assert created.state == model_pb2.Model.NOT_STARTED
    trainer.datasets.put(dataset(categories=(("owl", 99, 99), ("wren", 1, 1))))
    await trainer.step()
    found = await trainer.get()
    assert found.state == model_pb2.Model.FAILED
    assert "'wren'" in found.error.message
    assert found.training_cost.ToTimedelta() == timedelta(0)


@pytest.mark.parametrize(
    ("changes", "code", "reason", "word"),
    [
        ({"training_dataset": "datasets/none"}, MISSING, "datasetNotFound", "datasets/none"),
        ({"test_dataset": "datasets/none"}, MISSING, "datasetNotFound", "datasets/none"),
        ({"training_dataset": "birds"}, INVALID, "InvalidName", "datasets/{dataset}"),
        ({"training_dataset": ""}, INVALID, "InvalidName", "training_dataset"),
        ({"test_dataset": "models/m"}, INVALID, "InvalidName", "test_dataset"),
        ({"id_": ""}, INVALID, "InvalidName", "model_id"),
        ({"id_": "a/b"}, INVALID, "InvalidName", "model_id"),
        ({"id_": "../up"}, INVALID, "InvalidName", "model_id"),
        ({"id_": "m\n"}, INVALID, "InvalidName", "model_id"),
        ({"budget": 0}, INVALID, "InvalidRequest", "above 0"),
        ({"budget": -5}, INVALID, "InvalidRequest", "above 0"),
        ({"budget": 288 * 3600 + 1}, INVALID, "InvalidRequest", "at most 288 hours"),
        ({"budget": 2**62}, INVALID, "InvalidRequest", "time_budget"),
        ({"kind": 0}, INVALID, "InvalidRequest", "GENERIC_CLASSIFIER"),
        ({"kind": DETECTOR}, INVALID, "incorrectModelKind", "IMAGE_CLASSIFICATION"),
        ({"training_dataset": "datasets/boxes"}, INVALID, "incorrectModelKind", "OBJECT_DETECTION"),
        ({"kind": DETECTOR, **BOXES, "test_dataset": "datasets/test"}, INVALID, "incorrectModelKind", "datasets/test"),
        ({"base_model": "models/other"}, MISSING, "ModelNotFound", "models/other"),
        ({"base_model": "other"}, INVALID, "InvalidName", "base_model"),
        ({"request_id": "r" * 129}, INVALID, "InvalidRequest", "129"),
        ({"display_name": "d" * 257}, INVALID, "InvalidRequest", "257"),
        ({"custom_properties": {str(n): "" for n in range(11)}}, INVALID, "InvalidRequest", "11 entries"),
        ({"custom_properties": {"": "a"}}, INVALID, "InvalidRequest", "custom_properties"),
    ],
)
async def test_a_request_that_can_never_succeed_is_refused(
    trainer: World, changes: dict[str, Any], code: grpc.StatusCode, reason: str, word: str
) -> None:
    await refused(trainer.models.CreateModel(request(**changes)), code, reason, word)
    assert (await trainer.models.ListModels(pb.ListModelsRequest())).models == []


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (model_pb2.Hyperparameters(backbones=["alexnet"]), "'alexnet' is not a backbone of"),
        (model_pb2.Hyperparameters(resolution=8), "32 to 1024"),
        (model_pb2.Hyperparameters(max_trials=0), "max_trials"),
        (model_pb2.Hyperparameters(max_rung=-1), "max_rung"),
        (model_pb2.Hyperparameters(seed=-1), "seed"),
        (model_pb2.Hyperparameters(backbones=["resnet18", "resnet18"]), "backbones"),
        (model_pb2.Hyperparameters(max_prediction_cost=Duration()), "max_prediction_cost: 0 s is not above 0"),
        (model_pb2.Hyperparameters(max_prediction_cost=Duration(seconds=2**62)), "at most 288 hours"),
        (model_pb2.Hyperparameters(max_prediction_cost=Duration(nanos=1_000_000)), "1 ms is less than the least"),
    ],
)
async def test_hyperparameters_out_of_range_are_refused(trainer: World, given: Any, word: str) -> None:
    await refused(trainer.models.CreateModel(request(hyperparameters=given)), INVALID, "InvalidRequest", word)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (model_pb2.Hyperparameters(backbones=["resnet18"]), "'resnet18' is not a backbone of a GENERIC_DETECTOR"),
        (model_pb2.Hyperparameters(resolution=600), "600 is not a multiple of 32"),
    ],
)
async def test_hyperparameters_unsuitable_for_a_detector_are_refused(trainer: World, given: Any, word: str) -> None:
    call = trainer.models.CreateModel(request(kind=DETECTOR, hyperparameters=given, **BOXES))
    await refused(call, INVALID, "InvalidRequest", word)


async def test_a_detector_is_trained_and_measured_by_mean_average_precision(trainer: World) -> None:
    trainer.worker.score = lambda trial: 60 + 10 * trial.recipe.rung
    found = await trainer.trained(kind=DETECTOR, test_dataset="datasets/more-boxes", **BOXES)
    assert found.state == model_pb2.Model.SUCCEEDED, found
    assert found.training_parameters.model_kind == DETECTOR
    assert found.performance.source == found.performance.TEST_DATASET
    assert found.performance.mean_average_precision_50 == 0.9
    assert found.performance.tag_performance["owl"].average_precision_50 == 0.9
    assert not found.performance.HasField("accuracy_top1")
    assert (found.progress.metric_name, found.progress.metric_value) == ("mean_average_precision_50", 0.7)
    trials = (await trainer.models.ListTrials(pb.ListTrialsRequest(parent=M))).trials
    assert [trial.rung for trial in trials] == [0] + [1] * (len(trials) - 1)
    assert {trial.recipe.head for trial in trials} == {"detection"}
    assert trials[0].recipe.depth == trial_pb2.Recipe.HEAD
    assert trials[0].score_metric == "mean_average_precision_50"
    assert trials[0].score == 0.6
    *_, refit = trials
    assert refit.recipe.refit
    assert not refit.HasField("score")
    assert found.best_trial == refit.name


async def test_a_detector_without_separate_images_says_that_it_was_measured_on_its_selection_set(
    trainer: World,
) -> None:
    found = await trainer.trained(kind=DETECTOR, **BOXES)
    assert found.performance.source == found.performance.CROSS_VALIDATION
    assert found.performance.mean_average_precision_50 == 0.8
    assert (await trainer.get(view=model_pb2.Model.FULL)).performance.image_count == 100


async def test_hyperparameters_narrow_the_search(trainer: World) -> None:
    given = model_pb2.Hyperparameters(
        max_trials=1, backbones=["resnet18"], resolution=128, seed=3, ignore_category_names=True
    )
    found = await trainer.trained(hyperparameters=given)
    assert found.training_parameters.hyperparameters == given
    trials = (await trainer.models.ListTrials(pb.ListTrialsRequest(parent=M))).trials
    assert [list(trial.recipe.backbones) for trial in trials] == [["resnet18"]]
    assert trials[0].recipe.seed == 3


async def test_a_prediction_costs_no_more_than_the_caller_allows_and_every_trial_says_what(trainer: World) -> None:
    given = model_pb2.Hyperparameters(max_prediction_cost=Duration(nanos=30_000_000))
    found = await trainer.trained(hyperparameters=given)
    assert found.training_parameters.hyperparameters == given
    trials = (await trainer.models.ListTrials(pb.ListTrialsRequest(parent=M))).trials
    costs = {trial.name: trial.prediction_cost.ToTimedelta() for trial in trials}
    assert all(timedelta() < cost <= timedelta(milliseconds=30) for cost in costs.values())
    assert found.prediction_cost.ToTimedelta() == costs[found.best_trial]


async def test_a_budget_of_one_second_is_refused_with_the_minimum_and_a_suggestion(trainer: World) -> None:
    metadata = await refused(
        trainer.models.CreateModel(request(budget=1)),
        PRECONDITION,
        "notEnoughBudget",
        "A budget of 1 s is not enough for datasets/birds",
        "the minimum is",
        "is suggested",
    )
    accepted = await trainer.models.CreateModel(request(budget=int(metadata["minimum_seconds"])))
    assert accepted.state == model_pb2.Model.NOT_STARTED
    assert int(metadata["suggested_seconds"]) >= int(metadata["minimum_seconds"])
    assert await fields_at_fault(trainer.models.CreateModel(request("m2", budget=1))) == [
        "model.training_parameters.time_budget"
    ]


@pytest.mark.parametrize(
    ("changes", "code", "reason", "word"),
    [
        ({"annotation_kind": "OBJECT_DETECTION"}, INVALID, "incorrectModelKind", "OBJECT_DETECTION"),
        ({"categories": (("owl", 99, 99), ("wren", 1, 1))}, INVALID, "datasetAnnotationsInvalid", "'wren'"),
        (
            {"categories": (("owl", 80, 80), *((f"wren {n}", 1, 1) for n in range(20)))},
            INVALID,
            "datasetAnnotationsInvalid",
            "'wren 8', 'wren 9', …; add images of them, or leave them out.",
        ),
        ({"categories": (("owl", 100, 100),)}, INVALID, "datasetAnnotationsInvalid", "needs at least 2"),
        ({"image_count": 0}, INVALID, "datasetEmpty", "no usable image"),
        ({"state": "FAILED"}, PRECONDITION, "datasetNotReady", "FAILED"),
        ({"state": "DELETING"}, PRECONDITION, "datasetNotReady", "DELETING"),
    ],
)
async def test_a_dataset_that_no_model_can_be_trained_on_is_refused_at_once(
    trainer: World, changes: dict[str, Any], code: grpc.StatusCode, reason: str, word: str
) -> None:
    trainer.datasets.put(dataset(**changes))
    await refused(trainer.models.CreateModel(request()), code, reason, word)


async def test_a_dataset_of_any_registered_size_can_be_used_for_training_and_evaluation(trainer: World) -> None:
    categories = tuple((f"category {number}", 1000, 1000) for number in range(3000))
    trainer.datasets.put(dataset(image_count=3_000_000, categories=categories))
    trainer.datasets.put(dataset("datasets/test", image_count=3_000_000, categories=categories))
    created = await trainer.models.CreateModel(request(test_dataset="datasets/test", budget=288 * 3600))
    assert created.state == model_pb2.Model.NOT_STARTED
    await trainer.step()
    assert (await trainer.get()).state == model_pb2.Model.TRAINING


async def test_a_dataset_service_that_is_down_is_reported(trainer: World) -> None:
    trainer.datasets.away = True
    await refused(trainer.models.CreateModel(request()), grpc.StatusCode.UNAVAILABLE, "Unavailable", "dataset service")


# Reading.


@pytest.mark.parametrize("name", ["", "m", "models/", "models/a/b", "datasets/m"])
async def test_a_malformed_name_is_refused(trainer: World, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.get(name)
    assert caught.value.code() is INVALID
    assert describe(caught.value).reason in ("InvalidName", "InvalidRequest")


async def test_models_are_listed_in_pages_by_name(trainer: World) -> None:
    for number in range(5):
        await trainer.models.CreateModel(request(f"m{number}"))
    seen, token = list[str](), ""
    while True:
        page = await trainer.models.ListModels(pb.ListModelsRequest(page_size=2, page_token=token))
        seen += [model.name for model in page.models]
        assert len(page.models) <= 2
        if not (token := page.next_page_token):
            break
    assert seen == [f"models/m{number}" for number in range(5)]
    await refused(trainer.models.ListModels(pb.ListModelsRequest(page_token="x")), INVALID, "InvalidPageToken")
    await refused(trainer.models.ListModels(pb.ListModelsRequest(page_size=-1)), INVALID, "InvalidRequest", "-1")


async def test_trials_are_listed_with_recipe_score_and_cost(trainer: World) -> None:
    await trainer.trained()
    page = await trainer.models.ListTrials(pb.ListTrialsRequest(parent=M, page_size=1))
    assert [trial.name for trial in page.trials] == ["models/m/trials/t000"]
    trial = page.trials[0]
    assert trial.state == trial_pb2.Trial.SUCCEEDED
    assert (trial.score, trial.score_metric, trial.attempts, trial.progress) == (0.8, "accuracy_top1", 1, 1.0)
    assert trial.cost.ToTimedelta() == timedelta(seconds=1)
    assert trial.weights_source == trial_pb2.Trial.FOLDER
    assert trial.recipe.depth == trial_pb2.Recipe.HEAD
    rest = await trainer.models.ListTrials(pb.ListTrialsRequest(parent=M, page_token=page.next_page_token))
    assert [found.name for found in rest.trials][:1] == ["models/m/trials/t001"]
    await refused(trainer.models.ListTrials(pb.ListTrialsRequest(parent="models/x")), MISSING, "ModelNotFound")
    await refused(trainer.models.ListTrials(pb.ListTrialsRequest(parent="")), INVALID, "InvalidName", "parent")
    await trainer.models.CreateModel(request("other"))
    await refused(
        trainer.models.ListTrials(pb.ListTrialsRequest(parent="models/other", page_token=page.next_page_token)),
        INVALID,
        "InvalidPageToken",
    )


async def test_a_trial_says_how_its_images_are_augmented(trainer: World) -> None:
    trainer.datasets.put(dataset(image_count=1_000))
    await trainer.trained(budget=7_200)
    trials = (await trainer.models.ListTrials(pb.ListTrialsRequest(parent=M))).trials
    augmentations = {trial.rung: trial.recipe.augmentation for trial in trials if trial.recipe.augmentation != "none"}
    assert augmentations == {0: "2 views", 1: "0.7, mirrored"}
    assert trials[0].recipe.augmentation == "none"


async def test_a_model_that_waits_for_a_worker_says_how_much_work_is_ahead_of_it(trainer: World) -> None:
    await trainer.models.CreateModel(request("first"))
    await trainer.coordinator.reconcile()
    await trainer.coordinator.reconcile()
    await trainer.models.CreateModel(request())
    await trainer.coordinator.reconcile()
    await trainer.coordinator.reconcile()
    found = await trainer.get()
    assert found.state == model_pb2.Model.TRAINING
    assert found.progress.phase == model_pb2.TrainingProgress.WAITING_FOR_WORKER
    assert found.progress.queue_position == 1
    assert (await trainer.get(view=model_pb2.Model.FULL)).progress.queue_position == 1
    assert (await trainer.get("models/first")).progress.queue_position == 0


async def test_a_model_says_which_dataset_it_waits_for_and_how_far_that_is(trainer: World) -> None:
    trainer.datasets.put(dataset(state="VALIDATING", phase="CHECKING_IMAGES", images_done=30, images_total=100))
    await trainer.models.CreateModel(request())
    await trainer.step()
    shown = (await trainer.get()).progress.waiting
    assert shown.reason == progress_pb2.Waiting.DATASET_VALIDATING
    (validation,) = shown.validations
    assert validation.dataset == "datasets/birds"
    assert (validation.progress.images_done, validation.progress.images_total) == (30, 100)
    trainer.datasets.put(dataset())
    assert (await trainer.trained("other")).state == model_pb2.Model.SUCCEEDED
    assert not (await trainer.get()).progress.HasField("waiting")


async def test_a_model_says_that_no_worker_is_there_or_that_all_are_busy_with_other_work(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PROMPT", timedelta(0))
    await trainer.models.CreateModel(request("first"))
    await trainer.coordinator.reconcile()
    await trainer.coordinator.reconcile()
    first = "models/first/trials/t000"
    assert (await trainer.get("models/first")).progress.waiting.reason == progress_pb2.Waiting.NO_WORKER
    attempt = await Attempt[Trial].begin(trainer.store.trials.table, first, "w", trainer.clock, TTL, 1.0)
    assert attempt is not None
    await trainer.models.CreateModel(request())
    await trainer.coordinator.reconcile()
    await trainer.coordinator.reconcile()
    shown = (await trainer.get()).progress.waiting
    assert (shown.reason, shown.workers, shown.busy_workers) == (progress_pb2.Waiting.WORKERS_BUSY, 1, 1)
    assert not (await trainer.get("models/first")).progress.HasField("waiting")


async def test_a_training_shows_what_runs_its_rungs_and_what_is_left(trainer: World) -> None:
    await trainer.models.CreateModel(request())
    while len(trainer.store.trials.view.all()) < 2:
        await trainer.worker.work_off()
        await trainer.coordinator.reconcile()
    name = f"{M}/trials/t001"
    attempt = await Attempt[Trial].begin(trainer.store.trials.table, name, "w", trainer.clock, TTL, 1.0)
    assert attempt is not None
    await attempt.beat(timedelta(seconds=4), 0.25, "features")
    await trainer.store.trials.view.caught_up((await trainer.store.trials.get(name)).revision)
    progress = (await trainer.get()).progress
    (running_work,) = progress.running
    assert (running_work.name, running_work.step, running_work.used.seconds) == (name, "features", 4)
    assert running_work.recipe == attempt.record.recipe.name
    assert [(one.rung, one.trials_done, one.trials_running) for one in progress.rungs] == [(0, 1, 1)]
    assert progress.metric_interval.low < progress.metric_value < progress.metric_interval.high
    assert progress.budget_used.seconds + progress.budget_left.seconds == 600
    assert progress.estimated_time_left.ToTimedelta() > timedelta(0)
    done = await trainer.trained("ended")
    assert not done.progress.HasField("estimated_time_left")
    assert not done.progress.running


async def test_the_full_view_has_every_trial_with_its_verdict_the_worst_mistakes_and_the_learning_curve(
    trainer: World,
) -> None:
    mistake = Mistake(
        image_id=7, file_name="7.jpg", true_category="owl", predicted_category="wren", probability=0.9, log_loss=2.3
    )
    gain = Gain(0.04, Interval(0.01, 0.07))
    curve = LearningCurve(
        points=(CurvePoint(10.0, 0.8, Interval(0.7, 0.9)),),
        power_law=PowerLaw(0.9, 0.5, 0.4),
        gain=gain,
        categories=(CategoryGain("owl", 50, 0.7, gain, gain),),
    )
    trainer.worker.insight = Insight(mistakes=(mistake,), learning_curve=curve)
    done = await trainer.trained()
    assert not done.leaderboard
    assert not done.worst_mistakes
    assert not done.HasField("learning_curve")
    full = await trainer.get(view=model_pb2.Model.FULL)
    trials = (await trainer.models.ListTrials(pb.ListTrialsRequest(parent=M))).trials
    assert len(full.leaderboard) == len(trials)
    first, *others = full.leaderboard
    assert (first.trial, first.served, first.verdict) == (full.best_trial, True, "served")
    assert (first.score, first.log_loss, first.cost.seconds) == (0.8, 0.5, 1)
    assert first.score_interval.low < first.score < first.score_interval.high
    assert not any(other.served for other in others)
    assert all("log loss than" in other.verdict for other in others)
    (worst,) = full.worst_mistakes
    assert (worst.file_name, worst.true_category, worst.predicted_category) == ("7.jpg", "owl", "wren")
    assert full.learning_curve.trial == trials[-1].name
    assert full.learning_curve.added_image_count == 10
    assert full.learning_curve.categories[0].gain.interval.high == 0.07


async def test_a_model_without_a_learning_curve_says_why(trainer: World) -> None:
    trainer.worker.insight = Insight(learning_curve=no_curve("A category has too few images."))
    await trainer.trained()
    full = await trainer.get(view=model_pb2.Model.FULL)
    assert full.learning_curve.unavailable == "A category has too few images."
    doubt = Doubt(
        image_id=7, file_name="7.jpg", kind=DoubtKind.CATEGORY, category="owl", box=(1, 2, 3, 4), confidence=0.9,
        labelled="wren", region=(1, 2, 3, 5),
    )  # fmt: skip
    trainer.worker.insight = Insight(doubts=(doubt,))
    await trainer.trained("boxes", kind=DETECTOR, **BOXES)
    full = await trainer.get("models/boxes", model_pb2.Model.FULL)
    (doubtful,) = full.doubts
    assert (doubtful.kind, doubtful.category, list(doubtful.box)) == (insight_pb2.Doubt.CATEGORY, "owl", [1, 2, 3, 4])
    assert (doubtful.region_category, list(doubtful.region_box)) == ("wren", [1, 2, 3, 5])
    assert full.learning_curve.unavailable == "It is measured for classifiers only."
    assert full.leaderboard[0].score_metric in ("mean_average_precision_50", "")


# Changing.


async def test_display_name_and_custom_properties_can_be_changed_in_any_state(trainer: World) -> None:
    created = await trainer.models.CreateModel(request(custom_properties={"a": "b"}))
    changed = model_pb2.Model(name=M, display_name="New", etag=created.etag)
    answer = await trainer.models.UpdateModel(
        pb.UpdateModelRequest(model=changed, update_mask=FieldMask(paths=["display_name"]))
    )
    assert (answer.display_name, dict(answer.custom_properties)) == ("New", {"a": "b"})
    assert answer.etag != created.etag
    cleared = await trainer.models.UpdateModel(
        pb.UpdateModelRequest(model=model_pb2.Model(name=M), update_mask=FieldMask(paths=["custom_properties"]))
    )
    assert dict(cleared.custom_properties) == {}
    await refused(
        trainer.models.UpdateModel(pb.UpdateModelRequest(model=changed)),
        ABORTED,
        "EtagMismatch",
        created.etag,
        "get it again",
    )
    for path in ("training_parameters", "state", "nonsense"):
        call = trainer.models.UpdateModel(pb.UpdateModelRequest(model=changed, update_mask=FieldMask(paths=[path])))
        await refused(call, INVALID, "InvalidRequest", path)
    long = model_pb2.Model(name=M, display_name="x" * 300)
    await refused(trainer.models.UpdateModel(pb.UpdateModelRequest(model=long)), INVALID, "InvalidRequest", "300")
    missing = model_pb2.Model(name="models/x", display_name="x")
    await refused(trainer.models.UpdateModel(pb.UpdateModelRequest(model=missing)), MISSING, "ModelNotFound")


async def test_a_model_is_deleted_with_everything_that_belongs_to_it(trainer: World) -> None:
    done = await trainer.trained(test_dataset="datasets/test")
    await trainer.evaluate()
    await refused(trainer.models.DeleteModel(pb.DeleteModelRequest(name=M, etag="1")), ABORTED, "EtagMismatch")
    assert (await trainer.models.ListTrials(pb.ListTrialsRequest(parent=M))).trials  # a refusal deletes nothing
    await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M, etag=done.etag))
    await refused(trainer.get(), MISSING, "ModelNotFound")
    await refused(trainer.models.DeleteModel(pb.DeleteModelRequest(name=M)), MISSING, "ModelNotFound")
    assert [blob.key async for blob in trainer.blobs.list("models/m/")] == []
    assert trainer.store.trials.view.all() == []
    assert trainer.store.evaluations.view.all() == []
    assert (await trainer.trained()).state == model_pb2.Model.SUCCEEDED  # the name is free again


async def test_a_replica_that_lags_shows_no_ledger_that_does_not_add_up(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = await trainer.trained()
    monkeypatch.setattr(Store, "cost_of", lambda *_: timedelta(0))
    with pytest.raises(grpc.aio.AioRpcError, match="has not caught up"):
        await trainer.get(view=model_pb2.Model.FULL)
    assert await trainer.get() == done


@pytest.mark.parametrize("deletions", range(4))
async def test_a_deletion_that_the_store_interrupts_is_completed_later(
    trainer: World, monkeypatch: pytest.MonkeyPatch, deletions: int
) -> None:
    await trainer.trained(test_dataset="datasets/test")
    delete, left = trainer.blobs.delete, [deletions]

    async def fails_after_a_few(key: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Unavailable(what="the store", problem="it is away")
        await delete(key)

    monkeypatch.setattr(trainer.blobs, "delete", fails_after_a_few)
    with pytest.raises(grpc.aio.AioRpcError, match="it is away"):
        await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M))
    await refused(trainer.get(), MISSING, "ModelNotFound")
    monkeypatch.setattr(trainer.blobs, "delete", delete)
    another = Coordinator(
        trainer.store, trainer.datasets, trainer.blobs, trainer.queue, trainer.clock, MemoryTelemetry()
    )
    await another.reconcile()
    assert [blob.key async for blob in trainer.blobs.list("models/m/")] == []
    assert trainer.store.trials.view.all() == []


def at_the_deletion_of(
    trainer: World, ending: str, patch: pytest.MonkeyPatch, do: Callable[[], Awaitable[Any]]
) -> None:
    """Does it once, as the deletion of blobs under a prefix that ends so begins."""
    listed = trainer.blobs.list

    async def late(prefix: str) -> AsyncIterator[BlobInfo]:
        if prefix.endswith(ending):
            patch.setattr(trainer.blobs, "list", listed)
            await do()
        async for blob in listed(prefix):
            yield blob

    patch.setattr(trainer.blobs, "list", late)


async def test_a_deletion_spares_a_running_model_that_has_just_been_given_the_name(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trainer.trained()

    async def another() -> None:
        await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M))
        await trainer.models.CreateModel(request())

    at_the_deletion_of(trainer, "/base/", monkeypatch, another)
    await refused(trainer.models.DeleteModel(pb.DeleteModelRequest(name=M)), PRECONDITION, "WrongState", "NOT_STARTED")
    assert (await trainer.get()).state == model_pb2.Model.NOT_STARTED


async def test_a_deletion_survives_a_change_of_the_model(trainer: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await trainer.trained()

    async def changed() -> None:
        new = model_pb2.Model(name=M, display_name="new")
        await trainer.models.UpdateModel(
            pb.UpdateModelRequest(model=new, update_mask=FieldMask(paths=["display_name"]))
        )

    at_the_deletion_of(trainer, "/base/", monkeypatch, changed)
    await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M))
    await refused(trainer.get(), MISSING, "ModelNotFound")


async def test_a_deletion_leaves_what_belongs_to_a_later_model_of_the_name(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trainer.trained(test_dataset="datasets/test")
    uid = (await trainer.store.models.get(M)).value.uid
    fresh = Coordinator(trainer.store, trainer.datasets, trainer.blobs, trainer.queue, trainer.clock, MemoryTelemetry())

    async def another() -> None:
        await fresh.reconcile()  # removes what is left of the first
        await trainer.trained(test_dataset="datasets/test")

    at_the_deletion_of(trainer, f"/{uid}/", monkeypatch, another)
    await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M))
    full = await trainer.get(view=model_pb2.Model.FULL)
    assert full.ledger
    assert full.training_cost.ToTimedelta() == sum((each.duration.ToTimedelta() for each in full.ledger), timedelta())
    assert {found.value.model_uid for found in trainer.store.trials.view.all()} == {
        (await trainer.store.models.get(M)).value.uid
    }
    assert len(trainer.store.evaluations.view.all()) == 1


async def test_a_refused_deletion_keeps_the_copy_of_the_base_model(trainer: World) -> None:
    await trainer.trained("m")
    await trainer.trained("n", base_model=M)
    await refused(trainer.models.DeleteModel(pb.DeleteModelRequest(name="models/n", etag="1")), ABORTED, "EtagMismatch")
    assert [blob async for blob in trainer.blobs.list((await trainer.store.models.get("models/n")).value.base_key)]


async def test_a_model_in_training_must_be_cancelled_before_it_is_deleted(trainer: World) -> None:
    await trainer.models.CreateModel(request())
    for _ in range(2):
        await refused(
            trainer.models.DeleteModel(pb.DeleteModelRequest(name=M)), PRECONDITION, "WrongState", "cancel it first"
        )
        await trainer.coordinator.reconcile()
    await trainer.models.CancelModel(pb.CancelModelRequest(name=M))
    await trainer.coordinator.reconcile()
    await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M))


async def test_cancelling_keeps_the_best_bundle_and_is_idempotent(trainer: World) -> None:
    await trainer.models.CreateModel(request())
    for _ in range(2):
        await trainer.step()
    answer = await trainer.models.CancelModel(pb.CancelModelRequest(name=M))
    assert answer.state == model_pb2.Model.CANCELLING
    assert (await trainer.models.CancelModel(pb.CancelModelRequest(name=M))).state == model_pb2.Model.CANCELLING
    await trainer.coordinator.reconcile()
    found = await trainer.models.CancelModel(pb.CancelModelRequest(name=M))
    assert found.state == model_pb2.Model.CANCELLED
    assert found.stop_reason == model_pb2.Model.CANCELLED_BY_CALLER
    assert found.model_version
    await refused(trainer.models.CancelModel(pb.CancelModelRequest(name="models/x")), MISSING, "ModelNotFound")


async def test_a_training_that_has_ended_cannot_be_cancelled(trainer: World) -> None:
    await trainer.trained()
    await refused(
        trainer.models.CancelModel(pb.CancelModelRequest(name=M)),
        PRECONDITION,
        "WrongState",
        "SUCCEEDED",
        "NOT_STARTED",
    )


# Following.


async def test_a_watch_shows_every_state_and_ends_after_the_last(trainer: World) -> None:
    await trainer.models.CreateModel(request(test_dataset="datasets/test"))
    running_coordinator = asyncio.create_task(trainer.coordinator.run())

    async def work() -> None:
        while True:
            await trainer.worker.work_off()
            await asyncio.sleep(0.01)

    working = asyncio.create_task(work())
    seen = list[model_pb2.Model]()
    try:
        async with asyncio.timeout(60):
            async for message in trainer.models.WatchModel(pb.WatchModelRequest(name=M)):
                seen.append(message.model)
    finally:
        for task in (running_coordinator, working):
            task.cancel()
        await asyncio.gather(running_coordinator, working, return_exceptions=True)
    assert seen[-1].state == model_pb2.Model.SUCCEEDED
    assert sum(model.state == model_pb2.Model.SUCCEEDED for model in seen) == 1
    assert all(one != other for one, other in itertools.pairwise(seen))
    fractions = [model.progress.fraction for model in seen]
    assert fractions == sorted(fractions)
    assert seen[-1].progress.metric_name == "accuracy_top1"
    assert seen[-1].progress.metric_value == 0.8
    assert seen[-1].progress.budget_used.ToTimedelta() > timedelta(0)


async def test_a_watch_shows_a_workers_progress_and_is_silent_while_nothing_changes(trainer: World) -> None:
    await trainer.models.CreateModel(request())
    for _ in range(2):
        await trainer.coordinator.reconcile()
    watch = trainer.models.WatchModel(pb.WatchModelRequest(name=M))
    first = await watch.read()
    assert first.model.progress.queue_position == 0
    attempt = await Attempt[Trial].begin(trainer.store.trials.table, f"{M}/trials/t000", "w", trainer.clock, TTL, 1.0)
    assert attempt is not None
    await attempt.beat(timedelta(seconds=3), 0.25, "fit")
    while (message := (await watch.read()).model).progress.budget_used.seconds != 3:
        pass
    assert message.progress.phase == model_pb2.TrainingProgress.SEARCHING
    assert message.progress.trial == f"{M}/trials/t000"
    assert not message.progress.HasField("queue_position")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.read(), 0.3)
    watch.cancel()


async def test_a_watch_of_a_model_that_is_deleted_ends_with_not_found(trainer: World) -> None:
    await refused(anext(aiter(trainer.models.WatchModel(pb.WatchModelRequest(name=M)))), MISSING, "ModelNotFound")
    await trainer.models.CreateModel(request())
    watch = trainer.models.WatchModel(pb.WatchModelRequest(name=M))
    await watch.read()
    await trainer.store.models.delete(M)
    await refused(asyncio.wait_for(watch.read(), 30), MISSING, "ModelNotFound")


# Continuing an earlier model.


async def test_a_model_continues_another_with_its_networks_and_survives_its_deletion(trainer: World) -> None:
    narrow = model_pb2.Hyperparameters(max_trials=1, backbones=["resnet18"])
    base = await trainer.trained(hyperparameters=narrow)
    await trainer.models.CreateModel(request("next", base_model=M))
    await trainer.coordinator.reconcile()
    await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M))
    await trainer.models.CreateModel(request())  # another model of that name changes nothing
    while (found := await trainer.get("models/next")).state != model_pb2.Model.SUCCEEDED:
        await trainer.step()
    assert (found.training_parameters.base_model, found.base_model_version) == (M, base.model_version)
    trials = (await trainer.models.ListTrials(pb.ListTrialsRequest(parent="models/next"))).trials
    assert list(trials[0].recipe.backbones) == ["resnet18"]
    assert trials[1].recipe.backbones[0] == "resnet18", "what the base brings is preferred"
    stored = (await trainer.store.trials.get(trials[0].name)).value.base_key
    assert stored.startswith("models/next/")
    assert await trainer.blobs.get(f"{stored}weights.safetensors") == b"weights"


async def test_a_base_model_must_have_a_bundle_and_be_of_the_same_kind(trainer: World) -> None:
    await trainer.models.CreateModel(request())
    waiting = trainer.models.CreateModel(request("next", base_model=M))
    await refused(waiting, PRECONDITION, "ModelNotReady", "models/m is NOT_STARTED")
    while (await trainer.get()).state != model_pb2.Model.SUCCEEDED:
        await trainer.step()
    other = trainer.models.CreateModel(request("next", base_model=M, kind=DETECTOR, **BOXES))
    await refused(other, INVALID, "InvalidRequest", "base_model: models/m is a GENERIC_CLASSIFIER")
    await trainer.models.CreateModel(request("next", base_model=M))


async def test_a_training_whose_base_model_was_deleted_before_it_started_fails(trainer: World) -> None:
    await trainer.trained()
    await trainer.models.CreateModel(request("next", base_model=M))
    await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M))
    await trainer.step()
    found = await trainer.get("models/next")
    assert found.state == model_pb2.Model.FAILED
    assert found.error.message.startswith("models/m does not exist")


# Estimates.


def question(dataset_name: str = "datasets/birds", **changes: Any) -> pb.EstimateTrainingRequest:
    parameters = model_pb2.TrainingParameters(training_dataset=dataset_name, model_kind=CLASSIFIER, **changes)
    return pb.EstimateTrainingRequest(training_parameters=parameters)


async def test_an_estimate_is_measured_and_creates_nothing(trainer: World) -> None:
    asked = question()
    asked.evaluation_parameters.test_dataset = "datasets/test"
    call = trainer.models.EstimateTraining(asked, timeout=60)
    waiting = asyncio.ensure_future(call)
    while not waiting.done():
        await trainer.step()
    found = await waiting
    assert found.device == "cpu, 2 threads"
    assert found.calibration_factor == 1.0
    assert 0 < found.minimum_budget.seconds <= found.suggested_budget.seconds
    assert found.metric_name == "accuracy_top1"
    assert found.outlook[-1].metric_value == 0.7
    assert found.outlook[0].expected_cost.ToTimedelta() <= found.outlook[0].budget.ToTimedelta()
    assert not trainer.store.models.view.all()
    assert not trainer.store.estimates.view.all()
    accepted = request(budget=found.minimum_budget.seconds, test_dataset="datasets/test", validate_only=True)
    await trainer.models.CreateModel(accepted)


async def test_an_estimate_measures_the_networks_of_the_base_model(trainer: World) -> None:
    narrow = model_pb2.Hyperparameters(max_trials=1, backbones=["resnet18"])
    await trainer.trained(hyperparameters=narrow)
    waiting = asyncio.ensure_future(trainer.models.EstimateTraining(question(base_model=M), timeout=60))
    recipes: list[tuple[str, ...]] = []
    while not waiting.done():
        recipes += [each.value.recipes[0].backbones for each in trainer.store.estimates.view.all()]
        await trainer.step()
    assert (await waiting).minimum_budget.seconds > 0
    assert set(recipes) == {("resnet18",)}


async def test_an_estimate_for_a_base_model_without_a_bundle_is_refused(trainer: World) -> None:
    await refused(trainer.models.EstimateTraining(question(base_model="models/none")), MISSING, "ModelNotFound")
    await trainer.models.CreateModel(request())
    asked = trainer.models.EstimateTraining(question(base_model=M))
    await refused(asked, grpc.StatusCode.FAILED_PRECONDITION, "ModelNotReady")


async def test_an_estimate_without_a_free_worker_is_unavailable_and_not_resent(trainer: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.models.EstimateTraining(question(), timeout=4.0)
    assert (caught.value.code(), describe(caught.value).reason) == (grpc.StatusCode.UNAVAILABLE, "EstimateTimedOut")
    status = from_call(caught.value)  # pyright: ignore[reportArgumentType] - it has what a call has
    assert status is not None
    delay = RetryInfo()
    assert any(detail.Unpack(delay) for detail in status.details)
    assert delay.retry_delay.seconds == 30
    assert trainer.telemetry.value(metrics.ESTIMATES, result="timed_out") == 1


async def test_an_estimate_whose_caller_cancels_ends_its_work(trainer: World) -> None:
    call = trainer.models.EstimateTraining(question(), timeout=60)
    waiting = asyncio.ensure_future(call)
    await eventually(lambda: bool(trainer.store.estimates.view.all()))
    call.cancel()
    await asyncio.wait([waiting])
    await eventually(lambda: not trainer.store.estimates.view.all())
    await trainer.coordinator.reconcile()
    assert await trainer.worker.work_off() == 0


async def test_an_estimate_of_an_unfit_request_is_refused(trainer: World) -> None:
    trainer.datasets.put(dataset("datasets/new", state="VALIDATING"))
    estimate = trainer.models.EstimateTraining
    await refused(estimate(question("datasets/none")), MISSING, "datasetNotFound", "datasets/none")
    await refused(estimate(question("datasets/new")), grpc.StatusCode.FAILED_PRECONDITION, "datasetNotReady")
    await refused(estimate(question("datasets/boxes")), grpc.StatusCode.INVALID_ARGUMENT, "incorrectModelKind")
    assert await fields_at_fault(estimate(question("nonsense"))) == ["training_parameters.training_dataset"]
    assert await fields_at_fault(estimate(pb.EstimateTrainingRequest())) == ["training_parameters.model_kind"]
    wrong = question(hyperparameters=model_pb2.Hyperparameters(backbones=["vgg"]))
    assert await fields_at_fault(estimate(wrong)) == ["training_parameters.hyperparameters.backbones"]


# Evaluations.


async def test_an_evaluation_measures_the_served_bundle(trainer: World) -> None:
    done = await trainer.trained()
    created = await trainer.evaluate()
    assert (created.name, created.state) == (E, evaluation_pb2.Evaluation.NOT_STARTED)
    assert created.model_version == done.model_version
    await trainer.step()
    found = await trainer.evaluations.GetEvaluation(epb.GetEvaluationRequest(name=E))
    assert found.state == evaluation_pb2.Evaluation.SUCCEEDED
    assert found.performance.accuracy_top1 == 0.9
    assert not found.performance.HasField("confusion_matrix")
    assert not found.performance.calibration_bins
    full = await trainer.evaluations.GetEvaluation(
        epb.GetEvaluationRequest(name=E, view=evaluation_pb2.Evaluation.FULL)
    )
    assert list(full.performance.confusion_matrix.categories) == ["category 0", "category 1"]
    (calibrated,) = full.performance.calibration_bins
    assert (calibrated.mean_confidence, calibrated.accuracy, calibrated.count) == (0.9, 0.9, 100)
    assert (calibrated.interval.low, calibrated.interval.high, calibrated.interval.level) == (0.7, 0.95, 0.95)
    assert (await trainer.get()).training_cost == done.training_cost  # charged to no budget


async def compared(trainer: World, first: str, second: str) -> epb.CompareEvaluationsResponse:
    request = epb.CompareEvaluationsRequest(first_evaluation=first, second_evaluation=second)
    return await trainer.evaluations.CompareEvaluations(request)


async def test_two_evaluations_of_the_same_images_are_compared_image_by_image(trainer: World) -> None:
    await trainer.trained()
    trainer.worker.right = {E: 80, f"{M}/evaluations/f": 93}
    for id_ in ("e", "f"):
        await trainer.evaluate(id_)
    await trainer.step()
    found = await compared(trainer, E, f"{M}/evaluations/f")
    assert (found.metric, found.image_count) == ("accuracy_top1", 100)
    assert (found.first_value, found.second_value, found.difference) == (0.8, 0.93, pytest.approx(0.13))
    assert (found.first_only_right_count, found.second_only_right_count, found.both_right_count) == (0, 13, 80)
    assert 0 < found.interval.low < 0.13 < found.interval.high
    assert found.interval.level == 0.95
    assert found.p_value == pytest.approx(0.000526, rel=0.01)
    turned = await compared(trainer, f"{M}/evaluations/f", E)
    assert (turned.difference, turned.p_value) == (pytest.approx(-0.13), found.p_value)
    digests = [(await trainer.evaluations.GetEvaluation(epb.GetEvaluationRequest(name=E))).snapshot_digest]
    assert digests == [DIGEST]


async def test_an_evaluation_under_the_id_of_a_deleted_one_is_compared_by_its_own_predictions(trainer: World) -> None:
    await trainer.trained()
    f, figures = f"{M}/evaluations/f", list[float]()
    await trainer.evaluate("f")
    for right in (80, 93):
        trainer.worker.right = {E: right}
        await trainer.evaluate()
        await trainer.step()
        figures.append((await compared(trainer, E, f)).first_value)
        await trainer.evaluations.DeleteEvaluation(epb.DeleteEvaluationRequest(name=E))
    assert figures == [0.8, 0.93]


async def test_a_slow_deletion_leaves_the_results_of_a_later_evaluation_of_the_same_id(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trainer.trained()
    await trainer.evaluate()
    await trainer.step()

    async def another() -> None:
        await trainer.evaluate()
        await trainer.step()

    at_the_deletion_of(trainer, "", monkeypatch, another)
    await trainer.evaluations.DeleteEvaluation(epb.DeleteEvaluationRequest(name=E))
    full = epb.GetEvaluationRequest(name=E, view=evaluation_pb2.Evaluation.FULL)
    assert (await trainer.evaluations.GetEvaluation(full)).performance.accuracy_top1 == 0.9


async def test_detectors_are_compared_too(trainer: World) -> None:
    await trainer.trained(kind=DETECTOR, **BOXES)
    trainer.datasets.put(dataset("datasets/test", annotation_kind="OBJECT_DETECTION"))
    trainer.worker.right = {E: 40}
    for id_ in ("e", "f"):
        await trainer.evaluate(id_)
    await trainer.step()
    found = await compared(trainer, E, f"{M}/evaluations/f")
    assert found.metric == "mean_average_precision_50"
    assert not found.HasField("both_right_count")
    assert found.interval.low > 0


async def test_what_cannot_be_compared_is_refused_with_its_reason(trainer: World) -> None:
    await trainer.trained()
    await trainer.evaluate()
    f = f"{M}/evaluations/f"
    await refused(compared(trainer, E, E), PRECONDITION, "WrongState", "NOT_STARTED", "comparing", "SUCCEEDED")
    await trainer.step()
    await refused(compared(trainer, E, f), MISSING, "EvaluationNotFound", f)
    await refused(compared(trainer, "x", E), INVALID, "InvalidName", "first_evaluation")
    await refused(compared(trainer, E, M), INVALID, "InvalidName", "second_evaluation")
    trainer.datasets.put(dataset("datasets/test", digest="sha256:" + "0" * 64))
    await trainer.evaluate("f")
    trainer.datasets.put(dataset("datasets/others", digest="sha256:" + "1" * 64))
    await trainer.evaluate("g", test_dataset="datasets/others")
    await trainer.step()
    again = f"datasets/test has changed since {E} was measured; measure that model again."
    await refused(compared(trainer, f, E), INVALID, "InvalidRequest", "second_evaluation", again)
    other = f"{E} is of datasets/test, {M}/evaluations/g of datasets/others"
    await refused(compared(trainer, E, f"{M}/evaluations/g"), INVALID, "InvalidRequest", other)


async def test_models_without_a_category_in_common_are_not_compared(trainer: World) -> None:
    await trainer.trained()
    for id_ in ("e", "f"):
        await trainer.evaluate(id_)
    await trainer.step()
    found = (await trainer.store.evaluations.get(E)).value
    strangers = msgspec.structs.replace(predictions(90), image_ids=tuple(range(1000, 1100)))
    await trainer.blobs.put(found.predictions_key, msgspec.msgpack.encode(strangers))
    await refused(compared(trainer, E, f"{M}/evaluations/f"), INVALID, "InvalidRequest", "no image in common")


async def test_an_evaluation_is_refused_with_its_reason(trainer: World) -> None:
    await refused(trainer.evaluate(), MISSING, "ModelNotFound", M)
    await trainer.models.CreateModel(request())
    await refused(trainer.evaluate(), PRECONDITION, "ModelNotReady", "NOT_STARTED", "wait")
    while (await trainer.get()).state != model_pb2.Model.SUCCEEDED:
        await trainer.step()
    await refused(trainer.evaluate(test_dataset="datasets/none"), MISSING, "datasetNotFound", "datasets/none")
    await refused(trainer.evaluate(test_dataset="none"), INVALID, "InvalidName", "evaluation.test_dataset")
    await refused(trainer.evaluate(id_="a/b"), INVALID, "InvalidName", "evaluation_id")
    await refused(trainer.evaluate(id_="final"), INVALID, "InvalidRequest", "'final'")
    trainer.datasets.put(dataset("datasets/boxes", annotation_kind="OBJECT_DETECTION"))
    await refused(trainer.evaluate(test_dataset="datasets/boxes"), INVALID, "incorrectModelKind", "OBJECT_DETECTION")
    trainer.datasets.put(dataset("datasets/new", state="VALIDATING"))
    await refused(trainer.evaluate(test_dataset="datasets/new"), PRECONDITION, "datasetNotReady", "VALIDATING")
    await trainer.evaluate(request_id="r")
    await refused(trainer.evaluate(), grpc.StatusCode.ALREADY_EXISTS, "EvaluationAlreadyExists", E)
    assert (await trainer.evaluate(request_id="r", test_dataset="datasets/none")).name == E
    assert (await trainer.evaluate("e2", validate_only=True)).etag == ""


@pytest.mark.parametrize(
    ("kind", "categories", "reason", "word"),
    [
        (DETECTOR, (("owl", 0, 0), ("wren", 0, 0)), "datasetAnnotationsInvalid", "has no annotations"),
        (CLASSIFIER, (("owl", 0, 0), ("wren", 0, 0)), "datasetAnnotationsInvalid", "has no annotations"),
        (
            DETECTOR,
            (("owl", 9, 9), ("Wren ", 2, 10)),
            "categoriesUnknown",
            "'Wren ' (10 regions; did you mean 'wren'?)",
        ),
        (
            CLASSIFIER,
            (("owl", 9, 9), ("Wren ", 10, 10)),
            "categoriesUnknown",
            "'Wren ' (10 images; did you mean 'wren'?)",
        ),
    ],
)
async def test_an_unsuitable_test_dataset_is_refused_for_training_and_evaluation(
    trainer: World, kind: Any, categories: Any, reason: str, word: str
) -> None:
    given: dict[str, Any] = {"kind": kind, **(BOXES if kind == DETECTOR else {})}
    await trainer.trained(**given)
    annotation_kind = "OBJECT_DETECTION" if kind == DETECTOR else "IMAGE_CLASSIFICATION"
    trainer.datasets.put(dataset("datasets/t", annotation_kind=annotation_kind, categories=categories))
    await refused(trainer.evaluate(test_dataset="datasets/t"), INVALID, reason, "datasets/t", word)
    await refused(
        trainer.models.CreateModel(request("m2", test_dataset="datasets/t", **given)),
        INVALID,
        reason,
        "datasets/t",
        word,
    )
    assert trainer.store.evaluations.view.all() == []


async def test_an_evaluation_and_its_model_say_what_was_left_out(trainer: World) -> None:
    unknown = UnknownCategory(name="Wren", image_count=4, similar="wren")
    trainer.worker.coverage = Coverage(
        image_count=20,
        measured_image_count=15,
        unknown_image_count=4,
        unreadable_image_count=1,
        unknown_categories=(unknown,),
        untested_categories=("owl",),
    )
    done = await trainer.trained(test_dataset="datasets/test")
    await trainer.evaluate()
    await trainer.step()
    found = await trainer.evaluations.GetEvaluation(epb.GetEvaluationRequest(name=E))
    for coverage in (done.performance.coverage, found.performance.coverage):
        counts = coverage.image_count, coverage.measured_image_count, coverage.unknown_image_count
        assert (*counts, coverage.unreadable_image_count) == (20, 15, 4, 1)
        (category,) = coverage.unknown_categories
        assert (category.name, category.image_count, category.similar_category) == ("Wren", 4, "wren")
        assert list(coverage.untested_categories) == ["owl"]
    codes = ["categoriesUnknown", "imagesUnreadable", "categoriesUntested"]
    assert [warning.code for warning in found.warnings] == codes
    assert [warning.severity for warning in found.warnings] == [finding_pb2.Finding.WARNING] * 3
    assert list(done.warnings)[-3:] == [f"{warning.message} {warning.remedy}" for warning in found.warnings]


async def test_evaluations_are_listed_and_deleted(trainer: World) -> None:
    await trainer.trained(test_dataset="datasets/test")
    for id_ in ("a", "b"):
        await trainer.evaluate(id_)
    await trainer.step()
    page = await trainer.evaluations.ListEvaluations(epb.ListEvaluationsRequest(parent=M, page_size=2))
    assert [found.name.rsplit("/")[-1] for found in page.evaluations] == ["a", "b"]
    rest = await trainer.evaluations.ListEvaluations(
        epb.ListEvaluationsRequest(parent=M, page_token=page.next_page_token)
    )
    assert [found.name.rsplit("/")[-1] for found in rest.evaluations] == ["final"]
    await refused(
        trainer.evaluations.ListEvaluations(epb.ListEvaluationsRequest(parent="models/x")), MISSING, "ModelNotFound"
    )
    delete = trainer.evaluations.DeleteEvaluation
    await refused(delete(epb.DeleteEvaluationRequest(name=f"{M}/evaluations/a", etag="1")), ABORTED, "EtagMismatch")
    await delete(epb.DeleteEvaluationRequest(name=f"{M}/evaluations/a"))
    await refused(delete(epb.DeleteEvaluationRequest(name=f"{M}/evaluations/a")), MISSING, "EvaluationNotFound")
    await refused(
        delete(epb.DeleteEvaluationRequest(name=f"{M}/evaluations/final")), INVALID, "InvalidRequest", "training"
    )
    left = await trainer.evaluations.ListEvaluations(epb.ListEvaluationsRequest(parent=M))
    assert len(left.evaluations) == 2


async def test_a_page_token_of_trials_is_none_of_evaluations_and_the_other_way_round(trainer: World) -> None:
    await trainer.trained(test_dataset="datasets/test")
    await trainer.evaluate()
    trials, evaluations = trainer.models.ListTrials, trainer.evaluations.ListEvaluations
    of_trials = (await trials(pb.ListTrialsRequest(parent=M, page_size=1))).next_page_token
    of_evaluations = (await evaluations(epb.ListEvaluationsRequest(parent=M, page_size=1))).next_page_token
    assert of_trials
    assert of_evaluations
    call = trials(pb.ListTrialsRequest(parent=M, page_token=of_evaluations))
    await refused(call, INVALID, "InvalidPageToken")
    call = evaluations(epb.ListEvaluationsRequest(parent=M, page_token=of_trials))
    await refused(call, INVALID, "InvalidPageToken")


async def test_an_evaluation_can_be_followed_to_its_end(trainer: World) -> None:
    await trainer.trained()
    await trainer.evaluate()
    watch = trainer.evaluations.WatchEvaluation(epb.WatchEvaluationRequest(name=E))
    assert (await watch.read()).evaluation.state == evaluation_pb2.Evaluation.NOT_STARTED
    await trainer.step()
    state: Any = None
    while (message := await watch.read()) is not grpc.aio.EOF:
        state = message.evaluation.state
    assert state == evaluation_pb2.Evaluation.SUCCEEDED
    missing = trainer.evaluations.WatchEvaluation(epb.WatchEvaluationRequest(name=f"{M}/evaluations/x"))
    await refused(anext(aiter(missing)), MISSING, "EvaluationNotFound")


async def test_a_failed_evaluation_has_an_error_of_the_contract(trainer: World) -> None:
    await trainer.trained()
    await trainer.evaluate()
    for _ in range(5):
        attempt = await Attempt[Any].begin(trainer.store.evaluations.table, E, "w", trainer.clock, TTL, 1.0)
        assert attempt is not None
        await attempt.end(lambda work: work.lost(trainer.clock.now(), E, "killed"))
    found = await trainer.evaluations.GetEvaluation(epb.GetEvaluationRequest(name=E))
    assert found.state == evaluation_pb2.Evaluation.FAILED
    assert "killed" in found.error.message
    await trainer.evaluate("e2")
    attempt = await Attempt[Any].begin(
        trainer.store.evaluations.table, f"{M}/evaluations/e2", "w", trainer.clock, TTL, 1.0
    )
    assert attempt is not None
    await attempt.end(lambda work: work.stopped(trainer.clock.now()))
    found = await trainer.evaluations.GetEvaluation(epb.GetEvaluationRequest(name=f"{M}/evaluations/e2"))
    assert found.state == evaluation_pb2.Evaluation.FAILED
    assert "86400 s were used up" in found.error.message
