"""A dataset is not deleted while a training, an evaluation or a batch prediction needs it: all services over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from services.dataset.reconcile import INTERRUPTED
from services.kit.errors import ModelNotFound
from services.kit.holds import Holder
from services.trainer.domain import ModelState
from sightline.v1 import dataset_service_pb2 as datasets
from sightline.v1 import evaluation_pb2, model_pb2
from sightline.v1 import evaluation_service_pb2 as evaluations
from sightline.v1 import model_service_pb2 as models
from sightline.v1 import prediction_service_pb2 as predictions
from sightline.v1.batch_prediction_pb2 import BatchPrediction
from tests.support.datasets import refused
from tests.support.suite_of_projects import Suite, suite
from tests.unit.predictor.serving import IMAGE

IN_USE = StatusCode.FAILED_PRECONDITION, "datasetInUse"
KEY = "trainer"


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Suite]:
    async with suite(tmp_path) as made:
        made.key(KEY, "admin", "acme")
        for name in ("pets", "test"):
            await made.register(name, KEY)
        yield made


async def create(services: Suite, name: str = "m", test: str = "", **fields: Any) -> model_pb2.Model:
    parameters = model_pb2.TrainingParameters(
        training_dataset="datasets/pets", model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER
    )
    parameters.time_budget.FromSeconds(600)
    model = model_pb2.Model(training_parameters=parameters)
    if test:
        model.evaluation_parameters.test_dataset = test
    return await services.call("CreateModel", models.CreateModelRequest(model=model, model_id=name, **fields), KEY)


async def evaluate(services: Suite, name: str = "e") -> None:
    request = evaluations.CreateEvaluationRequest(
        parent="models/m", evaluation=evaluation_pb2.Evaluation(test_dataset="datasets/test"), evaluation_id=name
    )
    await services.call("CreateEvaluation", request, KEY)


async def delete(services: Suite, name: str, **fields: Any) -> None:
    await services.call("DeleteDataset", datasets.DeleteDatasetRequest(name=f"datasets/{name}", **fields), KEY)


async def gone(services: Suite, name: str) -> None:
    await services.world.work()
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", name):
        await services.call("GetDataset", datasets.GetDatasetRequest(name=f"datasets/{name}"), KEY)


async def trained(services: Suite, name: str = "m") -> model_pb2.Model:
    for _ in range(60):
        await services.step()
        found = await services.call("GetModel", models.GetModelRequest(name=f"models/{name}"), KEY)
        if found.state in (model_pb2.Model.SUCCEEDED, model_pb2.Model.FAILED, model_pb2.Model.CANCELLED):
            await services.step()
            return found
    raise AssertionError(name)


async def test_a_dataset_is_kept_as_long_as_a_training_needs_it(services: Suite) -> None:
    await create(services, test="datasets/test")
    etag = (await services.call("GetDataset", datasets.GetDatasetRequest(name="datasets/pets"), KEY)).etag
    for name in ("pets", "test"):  # NOT_STARTED
        async with refused(*IN_USE, f"datasets/{name} is in use by models/m; wait until they have ended, or cancel"):
            await delete(services, name)
    await services.step()
    found = services.store.models.view.find("projects/acme/models/m")
    assert found is not None
    assert found.value.state is ModelState.TRAINING
    for name in ("pets", "test"):
        async with refused(*IN_USE, "models/m"):
            await delete(services, name, etag=etag if name == "pets" else "")
    assert (await services.call("GetDataset", datasets.GetDatasetRequest(name="datasets/pets"), KEY)).etag == etag
    assert (await trained(services)).state == model_pb2.Model.SUCCEEDED
    for name in ("pets", "test"):
        await delete(services, name, etag=etag if name == "pets" else "")
        await gone(services, name)
    assert not services.store.holds.view.all(), "the holds go with the dataset"


async def test_a_cancelled_training_needs_nothing(services: Suite) -> None:
    await create(services)
    await services.call("CancelModel", models.CancelModelRequest(name="models/m"), KEY)
    async with refused(*IN_USE, "models/m"):
        await delete(services, "pets")
    assert (await trained(services)).state == model_pb2.Model.CANCELLED
    await delete(services, "pets")
    await gone(services, "pets")


async def test_a_dataset_is_kept_as_long_as_an_evaluation_needs_it(services: Suite) -> None:
    await create(services)
    await trained(services)
    await evaluate(services)
    await evaluate(services, "other")
    async with refused(*IN_USE, "datasets/test is in use by models/m/evaluations/e, models/m/evaluations/other;"):
        await delete(services, "test")
    request = evaluations.DeleteEvaluationRequest(name="models/m/evaluations/e")
    await services.call("DeleteEvaluation", request, KEY)
    await services.step()
    await services.step()
    await delete(services, "test")
    await gone(services, "test")


async def test_a_finished_model_needs_its_dataset_no_more(services: Suite) -> None:
    found = await services.train("m", "datasets/pets", KEY)
    await services.step()
    await delete(services, "pets")
    await gone(services, "pets")
    request = models.GetModelRequest(name="models/m", view=model_pb2.Model.FULL)
    kept = await services.call("GetModel", request, KEY)
    assert (kept.state, kept.snapshot_digest) == (model_pb2.Model.SUCCEEDED, found.snapshot_digest)
    assert kept.performance.tag_performance
    answer = await services.call(
        "AnalyzeImage", predictions.AnalyzeImageRequest(model_name="models/m", image=IMAGE), KEY
    )
    assert answer.model_version == kept.model_version
    await evaluate(services, "later")
    for _ in range(3):
        await services.step()
    request = evaluations.GetEvaluationRequest(name="models/m/evaluations/later")
    assert (await services.call("GetEvaluation", request, KEY)).state == evaluation_pb2.Evaluation.SUCCEEDED


async def test_a_training_can_continue_a_model_whose_dataset_is_gone(services: Suite) -> None:
    await services.train("m", "datasets/test", KEY)
    await services.step()
    await delete(services, "test")
    await gone(services, "test")
    parameters = model_pb2.TrainingParameters(
        training_dataset="datasets/pets",
        base_model="models/m",
        model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER,
    )
    parameters.time_budget.FromSeconds(600)
    model = model_pb2.Model(training_parameters=parameters)
    await services.call("CreateModel", models.CreateModelRequest(model=model, model_id="next"), KEY)
    assert (await trained(services, "next")).state == model_pb2.Model.SUCCEEDED


async def test_a_deletion_by_force_ends_the_training_with_the_reason(services: Suite) -> None:
    await create(services)
    await delete(services, "pets", force=True)
    found = await trained(services)
    assert found.state == model_pb2.Model.FAILED
    assert "datasets/pets is DELETING" in found.error.message
    await gone(services, "pets")
    await services.step()
    assert not services.store.holds.view.all()


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_dataset_is_kept_as_long_as_a_batch_prediction_needs_it(services: Suite, *, cancels: bool) -> None:
    await services.train("m", "datasets/pets", KEY)
    await services.step()
    await services.begin_batch("b", "datasets/test", "models/m", KEY)
    async with refused(*IN_USE, "datasets/test is in use by batchPredictions/b; wait until they have ended, or cancel"):
        await delete(services, "test")
    if cancels:
        request = predictions.CancelBatchPredictionRequest(name="batchPredictions/b")
        await services.call("CancelBatchPrediction", request, KEY)
        async with refused(*IN_USE, "batchPredictions/b"):  # a worker may still read it
            await delete(services, "test")
    await services.work_batches()
    request = predictions.GetBatchPredictionRequest(name="batchPredictions/b")
    ended = BatchPrediction.CANCELLED if cancels else BatchPrediction.SUCCEEDED
    assert (await services.call("GetBatchPrediction", request, KEY)).state == ended
    await delete(services, "test")
    await gone(services, "test")


async def test_a_deletion_by_force_ends_a_batch_prediction_with_the_reason(services: Suite) -> None:
    await services.train("m", "datasets/pets", KEY)
    await services.step()
    await services.begin_batch("b", "datasets/test", "models/m", KEY)
    await delete(services, "test", force=True)
    await gone(services, "test")
    await services.work_batches()
    request = predictions.GetBatchPredictionRequest(name="batchPredictions/b")
    found = await services.call("GetBatchPrediction", request, KEY)
    assert (found.state, "datasets/test" in found.error.message) == (BatchPrediction.FAILED, True)
    assert not services.world.holds.of("projects/acme/datasets/test")


async def test_trying_and_being_refused_leave_no_hold(services: Suite) -> None:
    await create(services, validate_only=True)
    await delete(services, "pets")
    async with refused(StatusCode.FAILED_PRECONDITION, "datasetNotReady", "datasets/pets is DELETING"):
        await create(services)
    await gone(services, "pets")


async def test_a_model_that_meets_a_deletion_at_work_is_not_created(services: Suite) -> None:
    """The dataset is deleted after CreateModel has looked at it."""
    close = services.world.holds.close

    async def deleted_first(name: str, _: object) -> int:
        record = await services.world.collection.get(name)
        await close(name, record.revision, services.world.clock.now())
        await services.world.collection.change(name, lambda found: found.deleting(services.world.clock.now()))
        return await type(services.store.holds).add(services.store.holds, name, Holder("projects/acme/models/m", "x"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services.store.holds, "add", deleted_first)
        async with refused(StatusCode.FAILED_PRECONDITION, "datasetNotReady", "datasets/pets is DELETING"):
            await create(services)
    with pytest.raises(ModelNotFound):
        await services.store.models.get("projects/acme/models/m")


async def test_an_interrupted_deletion_did_not_happen(services: Suite) -> None:
    """It died between closing the holds and marking the dataset."""
    world, name = services.world, "projects/acme/datasets/pets"
    before = await world.collection.get(name)
    await world.holds.close(name, before.revision, world.clock.now())
    async with refused(StatusCode.UNAVAILABLE, "Unavailable", "its deletion was interrupted"):
        await create(services)
    await world.reconciler().reconcile()
    assert (await world.collection.get(name)).revision == before.revision, "the deletion may be at work"
    world.clock.advance(INTERRUPTED.total_seconds())
    await world.reconciler().reconcile()
    after = await world.collection.get(name)
    assert (after.value, after.revision > before.revision) == (before.value, True)
    assert (await trained(services)).state == model_pb2.Model.SUCCEEDED, "the call failed, but the model is there"
    await world.reconciler().reconcile()
    assert (await world.collection.get(name)).revision == after.revision


async def test_holds_of_other_services_are_not_ended(services: Suite) -> None:
    name = "projects/acme/datasets/pets"
    await services.world.holds.add(name, Holder("projects/acme/batchPredictions/b", "u"))
    await services.step()
    async with refused(*IN_USE, "datasets/pets is in use by batchPredictions/b"):
        await delete(services, "pets")
