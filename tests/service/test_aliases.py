"""Aliases of models, from the call that sets one to the prediction that follows it."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.trainer import aliases
from sightline.v1 import (
    batch_prediction_pb2,
    evaluation_pb2,
    evaluation_service_pb2,
    model_alias_pb2,
    model_alias_service_pb2,
    model_pb2,
    model_service_pb2,
    prediction_service_pb2,
)
from tests.support.datasets import reason
from tests.support.suite_of_projects import Suite, suite
from tests.unit.predictor.serving import IMAGE

LIVE, OLD, NEW = "models/birds@live", "models/old", "models/new"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Suite]:
    """The models `old` and `new` of the project acme, and `ann`, who may do everything there."""
    async with suite(tmp_path) as made:
        made.key("ann", "admin", "acme")
        await made.register("pets", "ann")
        for name in ("old", "new"):
            await made.train(name, "datasets/pets", "ann")
        yield made


async def set_(made: Suite, model: str, name: str = LIVE, etag: str = "") -> model_alias_pb2.ModelAlias:
    request = model_alias_service_pb2.SetModelAliasRequest(name=name, model=model, etag=etag)
    return await made.call("SetModelAlias", request, "ann")


async def rolled_back(made: Suite, etag: str = "", request_id: str = "") -> model_alias_pb2.ModelAlias:
    request = model_alias_service_pb2.RollBackModelAliasRequest(name=LIVE, etag=etag, request_id=request_id)
    return await made.call("RollBackModelAlias", request, "ann")


async def delete_model(made: Suite, name: str, *, force: bool = False) -> None:
    await made.call("DeleteModel", model_service_pb2.DeleteModelRequest(name=name, force=force), "ann")


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason(caught.value), caught.value.details() or ""


async def test_a_project_has_so_many_aliases(made: Suite, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(aliases, "MOST_ALIASES", 2)
    for name in ("models/birds@a", "models/birds@b"):
        await set_(made, OLD, name)
    why, words = await refused(set_(made, OLD, "models/birds@c"))
    assert (why, "Delete aliases that nobody needs" in words) == ("QuotaExceeded", True)
    assert (await set_(made, NEW, "models/birds@a")).model == NEW, "one that there is can be switched"
    gone = model_alias_service_pb2.DeleteModelAliasRequest(name="models/birds@b")
    await made.call("DeleteModelAlias", gone, "ann")
    assert (await set_(made, OLD, "models/birds@c")).model == OLD


async def test_an_alias_is_set_switched_rolled_back_and_deleted(made: Suite):
    first = await set_(made, OLD)
    assert (first.name, first.model) == (LIVE, OLD)
    assert await set_(made, OLD) == first, "a repeated call changes nothing"

    second = await set_(made, NEW, etag=first.etag)
    assert [switch.model for switch in second.switches] == [NEW, OLD]
    assert {switch.subject for switch in second.switches} == {"ann"}
    assert await refused(set_(made, OLD, etag=first.etag)) == (
        "EtagMismatch",
        f"{LIVE} has changed since etag {first.etag} was read (it is now {second.etag}); get it again and repeat.",
    )

    third = await rolled_back(made, second.etag)
    assert third.model == OLD
    assert (await refused(rolled_back(made, second.etag)))[0] == "EtagMismatch"
    assert (await rolled_back(made)).model == NEW

    listed = await made.call("ListModelAliases", model_alias_service_pb2.ListModelAliasesRequest(), "ann")
    assert [(alias.name, alias.model) for alias in listed.model_aliases] == [(LIVE, NEW)]
    await made.call("DeleteModelAlias", model_alias_service_pb2.DeleteModelAliasRequest(name=LIVE), "ann")
    get = model_alias_service_pb2.GetModelAliasRequest(name=LIVE)
    assert await refused(made.call("GetModelAlias", get, "ann")) == (
        "ModelAliasNotFound",
        f"{LIVE} does not exist; SetModelAlias creates an alias.",
    )


async def test_a_roll_back_that_is_repeated_does_not_switch_forward(made: Suite):
    await set_(made, OLD)
    second = await set_(made, NEW)
    back = await rolled_back(made, request_id="r1")
    assert back.model == OLD
    assert await rolled_back(made, request_id="r1") == back
    assert await rolled_back(made, second.etag, request_id="r1") == back
    assert (await rolled_back(made, request_id="r2")).model == NEW
    assert (await refused(rolled_back(made, request_id="r" * 129)))[0] == "InvalidRequest"


async def test_what_reads_a_model_takes_an_alias_of_it(made: Suite):
    await set_(made, NEW)
    found = await made.call("GetModel", model_service_pb2.GetModelRequest(name=LIVE), "ann")
    assert found.name == NEW
    trials = await made.call("ListTrials", model_service_pb2.ListTrialsRequest(parent=LIVE), "ann")
    assert trials.trials[0].name == f"{NEW}/trials/t000"
    evaluation = evaluation_service_pb2.CreateEvaluationRequest(
        parent=LIVE, evaluation=evaluation_pb2.Evaluation(test_dataset="datasets/pets"), evaluation_id="by-alias"
    )
    assert (await made.call("CreateEvaluation", evaluation, "ann")).name == f"{NEW}/evaluations/by-alias"
    parameters = model_pb2.TrainingParameters(
        training_dataset="datasets/pets", model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER, base_model=LIVE
    )
    parameters.time_budget.FromSeconds(600)
    create = model_service_pb2.CreateModelRequest(
        model=model_pb2.Model(training_parameters=parameters), model_id="more", validate_only=True
    )
    await made.call("CreateModel", create, "ann")
    assert await made.store.model_name("projects/acme/models/birds@live") == "projects/acme/models/new"
    assert (await set_(made, LIVE, "models/cats@live")).model == NEW, "an alias of an alias is one of its model"


async def test_a_model_is_not_changed_by_an_alias(made: Suite):
    await set_(made, NEW)
    for rpc, request in (
        ("DeleteModel", model_service_pb2.DeleteModelRequest(name=LIVE)),
        ("CancelModel", model_service_pb2.CancelModelRequest(name=LIVE)),
        ("UpdateModel", model_service_pb2.UpdateModelRequest(model=model_pb2.Model(name=LIVE, display_name="x"))),
    ):
        assert (await refused(made.call(rpc, request, "ann")))[0] == "InvalidName", rpc


async def test_predictions_follow_a_switch_within_a_second_and_none_fails(made: Suite):
    await set_(made, OLD)
    versions = {
        name: (await made.call("GetModel", model_service_pb2.GetModelRequest(name=name), "ann")).model_version
        for name in (OLD, NEW)
    }
    request = prediction_service_pb2.AnalyzeImageRequest(model_name=LIVE, image=IMAGE)

    async def version() -> str:
        return (await made.call("AnalyzeImage", request, "ann")).model_version

    async def until(wanted: str) -> None:
        while await version() != wanted:
            pass

    assert versions[OLD] != versions[NEW]
    assert await version() == versions[OLD]
    await set_(made, NEW)
    await asyncio.wait_for(until(versions[NEW]), 10)
    await rolled_back(made)
    await asyncio.wait_for(until(versions[OLD]), 10)
    batch = batch_prediction_pb2.BatchPrediction(model_name=LIVE, dataset_name="datasets/pets")
    create = prediction_service_pb2.CreateBatchPredictionRequest(batch_prediction=batch, batch_prediction_id="b")
    created = await made.call("CreateBatchPrediction", create, "ann")
    assert (created.model_name, created.model_version) == (OLD, versions[OLD]), "it keeps the model with which it began"


async def test_a_model_for_which_an_alias_stands_is_deleted_by_force_only(made: Suite):
    await set_(made, OLD)
    await set_(made, NEW)
    await delete_model(made, OLD)
    assert await refused(rolled_back(made)) == (
        "NothingToRollBack",
        f"{LIVE} has stood for no other model that still exists; set it to the model that you want.",
    )
    assert await refused(delete_model(made, NEW)) == (
        "ModelInUse",
        f"{NEW} is what {LIVE} stands for; switch or delete the alias first, or set force.",
    )
    await delete_model(made, NEW, force=True)
    get = model_service_pb2.GetModelRequest(name=LIVE)
    assert (await refused(made.call("GetModel", get, "ann")))[0] == "ModelNotFound"
    await made.train("new", "datasets/pets", "ann")
    assert (await refused(made.call("GetModel", get, "ann")))[0] == "ModelNotFound", "another model of the name"
    await set_(made, NEW)
    assert (await made.call("GetModel", get, "ann")).name == NEW


async def test_callers_that_set_an_alias_at_once_leave_it_as_the_last_one_did(made: Suite):
    targets = [OLD, NEW] * 6
    answers = await asyncio.gather(*(set_(made, model) for model in targets))
    found = await made.call("GetModelAlias", model_alias_service_pb2.GetModelAliasRequest(name=LIVE), "ann")
    assert found in answers
    models = [switch.model for switch in found.switches]
    assert all(one != other for one, other in pairwise(models)), models


@pytest.mark.parametrize(
    "name",
    [
        "models/birds",
        "models/birds@",
        "models/@live",
        "models/birds@Live",
        "models/b@a@c",
        "birds@live",
        "datasets/b@c",
    ],
)
async def test_a_name_that_is_no_alias_is_refused(made: Suite, name: str):
    assert (await refused(set_(made, NEW, name)))[0] == "InvalidName"


async def test_only_a_model_that_can_predict_gets_an_alias(made: Suite):
    parameters = model_pb2.TrainingParameters(
        training_dataset="datasets/pets", model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER
    )
    parameters.time_budget.FromSeconds(600)
    create = model_service_pb2.CreateModelRequest(
        model=model_pb2.Model(training_parameters=parameters), model_id="untrained"
    )
    await made.call("CreateModel", create, "ann")
    assert (await refused(set_(made, "models/untrained")))[0] == "ModelNotReady"
    assert (await refused(set_(made, "models/nobody")))[0] == "ModelNotFound"
