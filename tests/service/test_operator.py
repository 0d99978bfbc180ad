"""The operator, as a process, between the suite's services and a mock of Kubernetes' API."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.operator.retraining import delete
from sightline.client.errors import WrongState
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import model_alias_service_pb2 as alias_service
from sightline.v1 import model_service_pb2 as model_service
from tests.support.cluster import PETS, TRAINING, Cluster, files_of, operating, reason, running_cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster without an operator yet."""
    async with running_cluster(tmp_path) as made:
        yield made


async def test_a_model_that_is_applied_before_its_dataset_trains_once_that_is_there(cluster: Cluster):
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING | {"alias": "production"})
        waiting = await cluster.until("Model", "birds", lambda status: reason(status) == "DatasetNotFound")
        assert not waiting.get("created")
        await cluster.create("Dataset", "pets", PETS | {"annotationFileUris": await files_of(cluster)})
        ready = await cluster.until("Dataset", "pets", lambda status: reason(status) == "Ready")
        assert (ready["state"], ready["images"], ready["version"]) == ("READY", 20, "1")
        trained = await cluster.until("Model", "birds", lambda status: reason(status) == "Succeeded")
        assert trained["resourceName"] == "models/birds"
        assert trained["progress"] == "100%"
        assert trained["metric"]
        await cluster.until("Model", "birds", lambda status: status.get("alias") == "production")
    get = alias_service.GetModelAliasRequest(name="models/birds@production")
    assert (await cluster.suite.call("GetModelAlias", get, "operator")).model == "models/birds"


async def test_evaluations_and_batch_predictions_follow_their_model(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    await cluster.suite.train("birds", "datasets/pets", "operator")
    async with operating(cluster):
        await cluster.create("Evaluation", "on-pets", {"model": "models/birds", "testDataset": "datasets/pets"})
        await cluster.create("BatchPrediction", "all", {"modelName": "models/birds", "datasetName": "datasets/pets"})
        measured = await cluster.until("Evaluation", "on-pets", lambda status: reason(status) == "Succeeded")
        assert measured["resourceName"] == "models/birds/evaluations/on-pets"
        predicted = await cluster.until("BatchPrediction", "all", lambda status: reason(status) == "Succeeded")
        assert predicted["resultUris"]


async def test_a_changed_name_is_updated_and_other_files_are_the_next_version(cluster: Cluster):
    async with operating(cluster):
        await cluster.create("Dataset", "pets", PETS | {"annotationFileUris": await files_of(cluster)})
        await cluster.until("Dataset", "pets", lambda status: reason(status) == "Ready")
        await cluster.change("Dataset", "pets", {"displayName": "Pets"}, generation=2)
        await cluster.until("Dataset", "pets", lambda status: status.get("observedGeneration") == 2)
        more = await files_of(cluster, "more", 24)
        await cluster.change("Dataset", "pets", {"annotationFileUris": more}, generation=3)
        later = await cluster.until(
            "Dataset", "pets", lambda status: (status.get("version"), status.get("state")) == ("2", "READY")
        )
        assert later["images"] == 24
    get = dataset_service.GetDatasetRequest(name="datasets/pets")
    assert (await cluster.suite.call("GetDataset", get, "operator")).display_name == "Pets"


async def test_a_training_that_ends_before_it_can_be_cancelled_is_deleted_next():
    asked: list[str] = []

    async def refused(rpc: str, _request: Any) -> None:
        asked.append(rpc)
        raise WrongState("models/m is SUCCEEDED")

    calls: Any = SimpleNamespace(
        stubs=SimpleNamespace(models=SimpleNamespace(DeleteModel="DeleteModel", CancelModel="CancelModel")), ask=refused
    )
    assert not await delete(calls, "models/m")
    assert asked == ["DeleteModel", "CancelModel"]


async def test_a_deleted_resource_takes_its_own_with_it_unless_that_is_to_be_kept(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "kept", TRAINING | {"deletionPolicy": "Keep"})
        await cluster.create("Model", "deleted", TRAINING)
        for name in ("kept", "deleted"):
            await cluster.until("Model", name, lambda status: bool(status.get("created")))
            await cluster.delete("Model", name)
            await cluster.gone("Model", name)
    listed = await cluster.suite.call("ListModels", model_service.ListModelsRequest(), "operator")
    assert [model.name for model in listed.models] == ["models/kept"]


async def test_what_somebody_deletes_in_the_suite_is_not_created_again(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING)
        await cluster.until("Model", "birds", lambda status: reason(status) == "Succeeded")
        await cluster.suite.call("DeleteModel", model_service.DeleteModelRequest(name="models/birds"), "operator")
        await cluster.change("Model", "birds", {"displayName": "Birds"}, generation=2)
        await cluster.until("Model", "birds", lambda status: reason(status) == "DeletedInSightline")


async def test_what_another_has_created_is_not_touched(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    await cluster.suite.train("birds", "datasets/pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING)
        refused = await cluster.until("Model", "birds", lambda status: bool(status.get("conditions")))
        assert reason(refused, "Accepted") == "ModelAlreadyExists"
        await cluster.delete("Model", "birds")
        await cluster.gone("Model", "birds")
    await cluster.suite.call("GetModel", model_service.GetModelRequest(name="models/birds"), "operator")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"trainingParameters": {"timeBudgett": "600s"}}, "InvalidSpec"),
        ({"trainingParameters": TRAINING["trainingParameters"] | {"timeBudget": "-1s"}}, "InvalidRequest"),
        (
            {"trainingParameters": TRAINING["trainingParameters"] | {"modelKind": "GENERIC_DETECTOR"}},
            "IncorrectModelKind",
        ),
    ],
)
async def test_a_spec_that_is_refused_says_why_and_is_not_accepted(
    cluster: Cluster, spec: dict[str, Any], expected: str
):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "birds", spec)
        refused = await cluster.until("Model", "birds", lambda status: bool(status.get("conditions")))
        assert reason(refused, "Accepted") == expected
        assert {one["status"] for one in refused["conditions"]} == {"False"}


async def test_two_operators_and_a_restart_create_once(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster), operating(cluster):
        for number in range(4):
            await cluster.create("Model", f"m{number}", TRAINING)
        for number in range(4):
            await cluster.until("Model", f"m{number}", lambda status: bool(status.get("created")))
    async with operating(cluster):
        for number in range(4):
            await cluster.until("Model", f"m{number}", lambda status: reason(status) == "Succeeded")
    listed = await cluster.suite.call("ListModels", model_service.ListModelsRequest(), "operator")
    assert [model.name for model in listed.models] == [f"models/m{number}" for number in range(4)]


async def test_a_change_of_what_is_fixed_is_told_and_changes_nothing(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING)
        await cluster.until("Model", "birds", lambda status: reason(status) == "Succeeded")
        other = TRAINING["trainingParameters"] | {"timeBudget": "900s"}
        await cluster.change("Model", "birds", {"trainingParameters": other, "displayName": "Birds"}, generation=2)
        await cluster.until("Model", "birds", lambda status: reason(status, "Accepted") == "ImmutableFieldChanged")
        await cluster.change("Model", "birds", TRAINING, generation=3)
        await cluster.until("Model", "birds", lambda status: reason(status, "Accepted") == "Created")
    found = await cluster.suite.call("GetModel", model_service.GetModelRequest(name="models/birds"), "operator")
    assert found.training_parameters.time_budget.seconds == 600


async def test_a_deleted_model_takes_its_alias_with_it(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING | {"alias": "production"})
        await cluster.until("Model", "birds", lambda status: status.get("alias") == "production")
        await cluster.delete("Model", "birds")
        await cluster.gone("Model", "birds")
    listed = await cluster.suite.call("ListModelAliases", alias_service.ListModelAliasesRequest(), "operator")
    assert not listed.model_aliases


async def test_other_files_of_a_dataset_train_a_model_that_replaces_the_serving_one(cluster: Cluster):
    cluster.environment["SIGHTLINE_OPERATOR_LOOK_SECONDS"] = "0.2"
    tested = {"evaluationParameters": {"testDataset": "datasets/held"}, "alias": "production"}
    retrains = {"retrainWhen": "DatasetChanged", "retrainMinInterval": "0s"}
    async with operating(cluster):
        await cluster.create("Dataset", "pets", PETS | {"annotationFileUris": await files_of(cluster)})
        await cluster.create("Dataset", "held", PETS | {"annotationFileUris": await files_of(cluster, "held", 10)})
        await cluster.create("Model", "birds", TRAINING | tested | retrains)
        await cluster.until("Model", "birds", lambda status: reason(status, "UpToDate") == "DatasetUnchanged")
        more = await files_of(cluster, "more", 24)
        await cluster.change("Dataset", "pets", {"annotationFileUris": more}, generation=2)
        replaced = await cluster.until("Model", "birds", lambda status: reason(status, "UpToDate") == "ModelReplaced")
        assert replaced["servingModel"] in {one["model"] for one in replaced["retrained"].values()}
        assert replaced["trainedDatasetVersion"] == 2
        get = alias_service.GetModelAliasRequest(name="models/birds@production")
        assert (await cluster.suite.call("GetModelAlias", get, "operator")).model == replaced["servingModel"]
        await cluster.delete("Model", "birds")
        await cluster.gone("Model", "birds")
    listed = await cluster.suite.call("ListModels", model_service.ListModelsRequest(), "operator")
    assert not listed.models


async def test_a_new_reason_is_an_event(cluster: Cluster):
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING)
        await cluster.until("Model", "birds", lambda status: reason(status) == "DatasetNotFound")
        await cluster.until("Model", "birds", lambda _: bool(cluster.events()))
    (event,) = cluster.events()  # the mock keeps one of those without a name
    assert (event["type"], event["reason"]) == ("Warning", "DatasetNotFound")
    assert event["involvedObject"]["name"] == "birds"
    assert "datasets/pets" in event["message"]
