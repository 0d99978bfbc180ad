"""What the operator does with a Model that trains again when its dataset has other images, step by step."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.operator.handlers import changes
from services.operator.reconcile import Pace, remove, step
from services.operator.resource import Resource
from sightline.client import progress
from sightline.client.calls import AsyncCalls
from sightline.client.stubs_aio import AsyncStubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials
from sightline.v1 import evaluation_service_pb2 as evaluation_service
from sightline.v1 import model_alias_service_pb2 as alias_service
from sightline.v1 import model_pb2
from sightline.v1 import model_service_pb2 as model_service
from tests.support import datasets
from tests.support.cluster import TRAINING, reason
from tests.support.suite_of_projects import Suite, suite

SPEC: dict[str, Any] = TRAINING | {
    "alias": "production",
    "evaluationParameters": {"testDataset": "datasets/held"},
    "retrainWhen": "DatasetChanged",
    "retrainMinInterval": "0s",
}
ALIAS = "models/birds@production"


class Applied:
    """A Model resource `birds`, kept as the api server would, and operators that take steps for it."""

    def __init__(self, made: Suite, calls: AsyncCalls) -> None:
        self.suite, self.calls = made, calls
        self.spec, self.status = SPEC, dict[str, Any]()
        self.now = datetime.now(UTC) + timedelta(minutes=1)
        self.reasons: list[str] = []  # of the condition UpToDate, one after another
        self.operators = 1
        self.loses = False  # whether each step is taken by an operator that dies before it writes the status
        self.seen = self.resource

    @property
    def resource(self) -> Resource:
        return Resource("Model", "acme", "birds", "uid-1", 1, self.spec, self.status)

    async def step(self) -> None:
        """Each operator takes a step, and then the suite works."""
        if self.loses:
            await self._taken(self.resource)
        seen, self.seen = self.seen, self.resource
        # A second operator's watch is late: it knows the status before the last step.
        bodies = [self.resource, seen][: self.operators]
        for body, status in zip(bodies, await asyncio.gather(*map(self._taken, bodies)), strict=True):
            self.status = merged(self.status, changes(body.status, status))
        if (found := reason(self.status, "UpToDate")) and found != (self.reasons or [""])[-1]:
            self.reasons.append(found)
        await self.suite.step()
        await self.suite.world.work()

    async def _taken(self, body: Resource) -> dict[str, Any]:
        at_once = lambda: asyncio.sleep(0)  # noqa: E731 - nothing is waited for
        return (await step(self.calls, body, at_once, Pace(), now=lambda: self.now)).status

    async def training(self) -> str:
        """Steps until a retraining's model exists, without the suite working on it; its name."""
        await self.until("Retraining")
        while not self.latest["created"]:
            self.status = merged(self.status, changes(self.status, await self._taken(self.resource)))
        return self.latest["model"]

    async def until(self, *reasons: str) -> None:
        """Steps until the condition UpToDate has one of these reasons."""
        for _ in range(60):
            await self.step()
            if reason(self.status, "UpToDate") in reasons:
                return
        raise AssertionError(self.status)

    @property
    def latest(self) -> dict[str, Any]:
        """The latest retraining."""
        return max(self.status["retrained"].values(), key=lambda one: one["datasetVersion"])

    async def delete(self) -> None:
        """Steps until the resource may go."""
        for _ in range(60):
            if (await remove(self.calls, self.resource))[0]:
                return
            await self.suite.step()
        raise AssertionError("it stayed")

    async def models(self) -> dict[str, int]:
        """The suite's models, and the version that each was trained on."""
        listed = await self.ask("ListModels", model_service.ListModelsRequest())
        return {one.name.removeprefix("models/"): one.training_dataset_version for one in listed.models}

    async def serving(self) -> str:
        return (await self.ask("GetModelAlias", alias_service.GetModelAliasRequest(name=ALIAS))).model

    async def switch(self, model: str) -> None:
        await self.ask("SetModelAlias", alias_service.SetModelAliasRequest(name=ALIAS, model=model))

    async def ask(self, rpc: str, request: Any) -> Any:
        return await self.suite.call(rpc, request, "operator")


def merged(before: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """JSON's merge patch."""
    after = dict(before)
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = merged(after.get(name) or {}, value) if isinstance(value, dict) else value
    return after


async def version(made: Suite, images: int, dataset: str = "pets", *, work: bool = True) -> None:
    """Registers that many images as the dataset's next version; without `work` it waits for validation."""
    described, files = datasets.tagged(images)
    uploaded = await made.upload(f"{dataset}-{images}", {"train.json": described, **files}, "operator")
    uri = next(file.uri for file in uploaded.files if file.path == "train.json")
    request = made.world.request(dataset, uris=(uri,))
    request.new_version = True
    await made.call("CreateDataset", request, "operator")
    if work:
        await made.world.work()


@pytest.fixture
async def applied(tmp_path: Path) -> AsyncIterator[Applied]:
    """A Model for whose training there is no dataset yet."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(suite(tmp_path))
        made.key("operator", "admin", "acme")
        await version(made, 10, "held")
        credentials = Credentials(token=made.tokens["operator"], project="acme")
        stubs = await stack.enter_async_context(AsyncStubs(made.addresses, credentials))
        yield Applied(made, AsyncCalls(stubs, progress.silent))


@pytest.fixture
async def birds(applied: Applied) -> Applied:
    """A Model that has trained on its dataset's first version, and serves."""
    await version(applied.suite, 20)
    await applied.until("DatasetUnchanged")
    assert await applied.serving() == "models/birds"
    return applied


async def test_a_model_of_the_new_version_that_is_not_worse_replaces_the_serving_one(birds: Applied):
    await version(birds.suite, 24)
    await birds.until("ModelReplaced")
    assert birds.reasons == ["DatasetUnchanged", "Retraining", "Comparing", "ModelReplaced"]
    new = birds.latest["model"]
    assert await birds.serving() == birds.status["servingModel"] == new
    assert await birds.models() == {"birds": 1, new.removeprefix("models/"): 2}
    assert (birds.latest["phase"], birds.latest["comparedWith"]) == ("Replaced", "models/birds")
    assert "On 100 images of datasets/held, accuracy_top1 is 0.900 of birds" in birds.latest["message"]
    assert birds.status["trainedDatasetVersion"] == 2
    await birds.step()
    assert reason(birds.status, "UpToDate") == "ModelReplaced"
    assert len(await birds.models()) == 2


async def test_a_worse_model_is_kept_but_does_not_serve(birds: Applied):
    await version(birds.suite, 24)
    await birds.until("Retraining")
    birds.suite.worker.right[f"projects/acme/{birds.latest['model']}/evaluations/final"] = 40
    await birds.until("ModelWorse")
    assert await birds.serving() == "models/birds"
    assert "birds is better by 50.0 points" in birds.latest["message"]
    assert reason(birds.status) == "Succeeded"
    assert birds.status["trainedDatasetVersion"] == 1
    assert len(await birds.models()) == 2
    await birds.step()
    assert len(await birds.models()) == 2


async def test_both_are_measured_on_the_test_images_as_they_are_now(birds: Applied):
    await version(birds.suite, 12, "held")
    await version(birds.suite, 24)
    await birds.until("ModelReplaced")
    measured = await evaluations(birds, "models/birds")
    assert len(measured) == 2  # the one that ended its training was of other images
    digests = {(await birds.ask("GetEvaluation", get)).snapshot_digest for get in map(get_evaluation, measured)}
    assert len(digests) == 2


def get_evaluation(name: str) -> Any:
    return evaluation_service.GetEvaluationRequest(name=name)


async def evaluations(birds: Applied, model: str) -> list[str]:
    listed = await birds.ask("ListEvaluations", evaluation_service.ListEvaluationsRequest(parent=model))
    return [one.name for one in listed.evaluations]


@pytest.mark.parametrize(("operators", "loses"), [(1, True), (2, False), (2, True)])
async def test_operators_that_die_after_each_call_or_run_twice_train_once(birds: Applied, operators: int, loses: bool):
    birds.operators, birds.loses = operators, loses
    for number, images in enumerate((24, 26), 2):
        await version(birds.suite, images)
        await birds.until("ModelReplaced")
        assert birds.latest["datasetVersion"] == number
        for _ in range(3):
            await birds.step()
    made = await birds.models()
    assert sorted(made.values()) == [1, 2, 3]
    assert await birds.serving() == birds.latest["model"]
    found = await birds.ask("GetModelAlias", alias_service.GetModelAliasRequest(name=ALIAS))
    assert len(found.switches) == 3
    await birds.delete()
    assert await birds.models() == {}


async def test_versions_during_a_training_are_one_training_of_the_last(birds: Applied):
    await version(birds.suite, 22)
    await birds.training()
    await birds.suite.step()
    for images in (24, 26, 28):
        await version(birds.suite, images)
    await birds.until("ModelReplaced")
    for _ in range(8):
        await birds.step()
    await birds.until("ModelReplaced")
    assert sorted((await birds.models()).values()) == [1, 2, 5]


async def test_trainings_begin_at_least_the_interval_apart(birds: Applied):
    birds.spec = SPEC | {"retrainMinInterval": "3600s"}
    first = await birds.ask("GetModel", model_service.GetModelRequest(name="models/birds"))
    birds.now = first.create_time.ToDatetime(UTC) + timedelta(minutes=59)
    await version(birds.suite, 24)
    await birds.until("RetrainingWaits")
    birds.now += timedelta(minutes=1)
    await birds.until("ModelReplaced")
    await version(birds.suite, 26)
    birds.now += timedelta(minutes=59)
    await birds.until("RetrainingWaits")
    assert len(await birds.models()) == 2
    birds.now += timedelta(minutes=1)
    await birds.until("ModelReplaced")
    assert len(await birds.models()) == 3


async def test_images_that_have_been_trained_on_are_not_trained_on_again(birds: Applied):
    await version(birds.suite, 20)
    for _ in range(3):
        await birds.step()
    assert reason(birds.status, "UpToDate") == "DatasetUnchanged"
    assert await birds.models() == {"birds": 1}


async def test_of_the_models_that_do_not_serve_the_latest_are_kept(birds: Applied):
    birds.spec = SPEC | {"retrainHistoryLimit": 1}
    for images in (22, 24, 26):
        await version(birds.suite, images)
        await birds.until("Retraining")
        await birds.until("ModelReplaced")
    await birds.step()
    assert sorted((await birds.models()).values()) == [1, 3, 4]
    assert {one["datasetVersion"] for one in birds.status["retrained"].values()} == {3, 4}
    rolled_back = await birds.ask("RollBackModelAlias", alias_service.RollBackModelAliasRequest(name=ALIAS))
    assert rolled_back.model in {one["model"] for one in birds.status["retrained"].values()}


async def test_what_somebody_rolls_back_stays_until_the_next_version(birds: Applied):
    await version(birds.suite, 24)
    await birds.until("ModelReplaced")
    await birds.ask("RollBackModelAlias", alias_service.RollBackModelAliasRequest(name=ALIAS))
    await birds.until("SwitchedBySomebody")
    await birds.step()
    assert await birds.serving() == "models/birds"
    await version(birds.suite, 26)
    await birds.until("ModelReplaced")
    assert birds.latest["comparedWith"] == "models/birds"


async def test_an_alias_that_is_switched_during_the_comparison_is_compared_again(birds: Applied):
    await birds.suite.train("mine", "datasets/pets", "operator")
    await version(birds.suite, 24)
    await birds.until("Comparing")
    while birds.latest["phase"] != "Switching":
        await birds.step()
    await birds.switch("models/mine")
    await birds.until("ModelReplaced")
    assert birds.latest["comparedWith"] == "models/mine"
    assert len(await evaluations(birds, "models/mine")) == 2
    await birds.delete()
    assert await birds.models() == {"mine": 1}
    assert len(await evaluations(birds, "models/mine")) == 1


async def test_nothing_is_trained_while_the_alias_is_deleted(birds: Applied):
    await birds.ask("DeleteModelAlias", alias_service.DeleteModelAliasRequest(name=ALIAS))
    await version(birds.suite, 24)
    await birds.until("AliasDeleted")
    assert await birds.models() == {"birds": 1}
    await birds.switch("models/birds")
    await birds.until("ModelReplaced")


async def test_a_training_that_fails_or_is_cancelled_or_deleted_says_so_and_is_not_repeated(birds: Applied):
    for images, end in ((22, "CancelModel"), (24, "DeleteModel")):
        await version(birds.suite, images)
        await ended(birds, end, await birds.training())
        await birds.until("RetrainingFailed")
    assert await birds.serving() == "models/birds"
    for _ in range(3):
        await birds.step()
    assert reason(birds.status, "UpToDate") == "RetrainingFailed"
    assert max((await birds.models()).values()) <= 2


async def ended(birds: Applied, rpc: str, model: str) -> None:
    """Cancels a training, or deletes its model too."""
    await birds.ask("CancelModel", model_service.CancelModelRequest(name=model))
    get = model_service.GetModelRequest(name=model)
    while (await birds.ask("GetModel", get)).state != model_pb2.Model.CANCELLED:
        await birds.suite.step()
    if rpc == "DeleteModel":
        await birds.ask("DeleteModel", model_service.DeleteModelRequest(name=model))


async def test_a_model_that_is_deleted_before_it_is_compared_is_not_trained_again(birds: Applied):
    await version(birds.suite, 24)
    await birds.until("Comparing")
    await birds.ask("DeleteModel", model_service.DeleteModelRequest(name=birds.latest["model"]))
    await birds.until("RetrainingFailed")
    assert await birds.models() == {"birds": 1}


async def test_if_the_first_training_failed_the_next_version_is_the_first_to_serve(applied: Applied):
    await version(applied.suite, 2, work=False)
    await applied.step()
    await applied.until("RetrainingFailed")
    assert reason(applied.status) == "Failed"
    await version(applied.suite, 24)
    await applied.until("ModelReplaced")
    assert await applied.serving() == applied.latest["model"]
    assert reason(applied.status) == "Succeeded"
    await applied.step()
    assert applied.status["alias"] == "production"
    await applied.delete()
    assert await applied.models() == {}


async def test_a_budget_that_does_not_suffice_any_more_is_told_and_raised(birds: Applied):
    birds.spec = SPEC | {"retrainTimeBudget": "1s"}
    await version(birds.suite, 24)
    await birds.until("NotEnoughBudget")
    assert await birds.models() == {"birds": 1}
    birds.spec = SPEC | {"retrainTimeBudget": "700s"}
    await birds.until("ModelReplaced")
    found = await birds.ask("GetModel", model_service.GetModelRequest(name=birds.latest["model"]))
    assert found.training_parameters.time_budget.seconds == 700


async def test_a_version_that_cannot_be_trained_on_is_told_and_the_next_one_is_trained_on(birds: Applied):
    await version(birds.suite, 2)
    await birds.until("RetrainingFailed")
    assert "images" in birds.latest["message"]
    await version(birds.suite, 24)
    await birds.until("ModelReplaced")


async def test_a_deletion_during_a_training_leaves_nothing(birds: Applied):
    await version(birds.suite, 24)
    await birds.until("Retraining")
    await birds.delete()
    assert await birds.models() == {}
    listed = await birds.ask("ListModelAliases", alias_service.ListModelAliasesRequest())
    assert not listed.model_aliases


async def test_what_is_to_be_kept_is_kept_and_trains_on(birds: Applied):
    birds.spec = SPEC | {"deletionPolicy": "Keep"}
    await version(birds.suite, 24)
    await birds.until("ModelReplaced")
    await birds.delete()
    assert sorted((await birds.models()).values()) == [1, 2]


async def test_without_the_field_nothing_more_is_trained_and_what_runs_is_compared(birds: Applied):
    await version(birds.suite, 24)
    await birds.until("Retraining")
    birds.spec = {name: value for name, value in SPEC.items() if not name.startswith("retrain")}
    await birds.until("ModelReplaced")
    await version(birds.suite, 26)
    for _ in range(3):
        await birds.step()
    assert sorted((await birds.models()).values()) == [1, 2]


async def test_while_the_suite_is_away_nothing_is_claimed_and_then_it_goes_on(birds: Applied):
    await version(birds.suite, 24)
    new, calls = await birds.training(), birds.calls
    nobody = Addresses("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1")
    async with AsyncStubs(nobody, Credentials(project="acme")) as stubs:
        birds.calls = AsyncCalls(stubs, progress.silent)
        await birds.step()
        assert [one["status"] for one in birds.status["conditions"] if one["type"] == "Ready"] == ["Unknown"]
        assert birds.latest["model"] == new
    birds.calls = calls
    await birds.until("ModelReplaced")
    assert sorted((await birds.models()).values()) == [1, 2]
