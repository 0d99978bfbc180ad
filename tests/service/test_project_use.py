"""What a project has in use, as its callers see it: it adds up, and is nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.kit import codec
from services.kit.account import Account
from services.kit.clock import ManualClock
from services.kit.memory import MemoryRecords
from services.kit.quotas import Limits, Quota
from services.kit.telemetry import MemoryTelemetry
from services.trainer import metrics
from services.trainer.labels import MAX_NAMED, OTHER
from services.trainer.project_gauges import ProjectGauges
from services.trainer.projects import Projects
from sightline.v1 import evaluation_service_pb2 as evaluations
from sightline.v1 import model_pb2
from sightline.v1 import model_service_pb2 as models
from sightline.v1 import project_service_pb2 as projects
from sightline.v1.project_pb2 import Project
from tests.support.datasets import reason
from tests.support.suite_of_projects import Suite, suite
from tests.unit.trainer.support import running

GET, LIST = projects.GetProjectRequest(), projects.ListProjectsRequest()


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Suite]:
    """`ann` has a dataset, a model and an evaluation in the project acme."""
    async with suite(tmp_path) as running_suite:
        running_suite.key("ann", "trainer", "acme")
        await running_suite.register("pets", "ann")
        await running_suite.train("m", "datasets/pets", "ann")
        await running_suite.world.quotas().publish()
        revision = (await running_suite.world.records.get("projects/acme/accounts/dataset")).revision
        await running_suite.store.accounts.view.caught_up(revision)
        yield running_suite


async def ledger(made: Suite) -> timedelta:
    """The charged entries of the model and of the evaluation, as their callers see them."""
    request = models.GetModelRequest(name="models/m", view=model_pb2.Model.FULL)
    model = await made.call("GetModel", request, "ann")
    charged = [entry.duration.ToTimedelta() for entry in model.ledger if entry.charged]
    of_evaluation = evaluations.GetEvaluationRequest(name="models/m/evaluations/e")
    evaluation = await made.call("GetEvaluation", of_evaluation, "ann")
    return sum(charged, timedelta()) + evaluation.cost.ToTimedelta()


async def test_a_project_shows_what_its_resources_add_up_to(made: Suite) -> None:
    made.limits["acme"] = Limits(datasets=7, compute_seconds=3600)
    found: Project = await made.call("GetProject", GET, "ann")
    assert (found.project_id, list(found.roles)) == ("acme", ["trainer"])
    assert (found.datasets.used, found.datasets.limit, found.models.used) == (1, 7, 1)
    assert not found.models.HasField("limit")
    upload = await made.world.kept.get("projects/acme/uploads/pets")
    dataset = await made.world.collection.get("projects/acme/datasets/pets")
    assert found.storage.upload_bytes == upload.value.size_bytes > 0
    assert dataset.value.stats is not None
    assert found.storage.dataset_bytes == dataset.value.stats.stored_bytes > 0
    assert found.storage.used_bytes == found.storage.upload_bytes + found.storage.dataset_bytes
    assert found.compute.used.ToTimedelta() == await ledger(made) > timedelta()
    assert found.compute.reserved.ToTimedelta() == timedelta()
    assert found.compute.limit.ToTimedelta() == timedelta(hours=1)
    assert found.compute.period_start_time.ToDatetime().day == found.compute.period_end_time.ToDatetime().day == 1


async def test_deleting_a_model_gives_back_its_place_but_no_compute(made: Suite) -> None:
    before = await made.call("GetProject", GET, "ann")
    await made.call("DeleteModel", models.DeleteModelRequest(name="models/m"), "ann")
    after = await made.call("GetProject", GET, "ann")
    assert (before.models.used, after.models.used) == (1, 0)
    assert after.compute.used == before.compute.used


async def test_a_budget_above_what_is_left_of_the_month_is_refused_and_a_smaller_one_reserved(made: Suite) -> None:
    used = (await made.call("GetProject", GET, "ann")).compute.used.ToTimedelta()
    made.limits["acme"] = Limits(compute_seconds=600)

    def request(name: str, budget: timedelta, **fields: Any) -> models.CreateModelRequest:
        parameters = model_pb2.TrainingParameters(
            training_dataset="datasets/pets", model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER
        )
        parameters.time_budget.FromTimedelta(budget)
        return models.CreateModelRequest(model=model_pb2.Model(training_parameters=parameters), model_id=name, **fields)

    left = timedelta(seconds=600) - used
    for validate_only in (True, False):
        too_large = request("n", left + timedelta(seconds=1), validate_only=validate_only)
        with pytest.raises(grpc.aio.AioRpcError, match="Project acme, compute this month") as refused:
            await made.call("CreateModel", too_large, "ann")
        assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QuotaExceeded")
    await made.call("CreateModel", request("n", left), "ann")
    found = await made.call("GetProject", GET, "ann")
    assert found.compute.reserved.ToTimedelta() == left
    evaluation = evaluations.CreateEvaluationRequest(parent="models/m", evaluation_id="f")
    evaluation.evaluation.test_dataset = "datasets/pets"
    with pytest.raises(grpc.aio.AioRpcError, match="Wait for other work to end"):
        await made.call("CreateEvaluation", evaluation, "ann")
    await made.call("CancelModel", models.CancelModelRequest(name="models/n"), "ann")
    await made.step()
    await made.call("CreateEvaluation", evaluation, "ann")


@pytest.mark.parametrize(
    ("key", "held", "listed"),
    [
        ("ann", None, ["acme"]),
        ("both", ["umbrella", "acme"], ["acme", "umbrella"]),
        ("cid", ["umbrella"], ["umbrella"]),
        ("everywhere", ["*"], ["acme", "default"]),
    ],
)
async def test_a_token_lists_the_projects_that_it_holds_in(
    made: Suite, key: str, held: list[str] | None, listed: list[str]
) -> None:
    if held:
        made.key(key, "admin", *held)
    project = listed[0]
    found = (await made.call("ListProjects", LIST, key, project)).projects
    assert [one.project_id for one in found] == listed
    assert [one.models.used for one in found if one.project_id == "acme"] == ([1] if "acme" in listed else [])


async def test_projects_are_listed_in_pages(made: Suite) -> None:
    made.key("everywhere", "viewer", "*")
    first = await made.call("ListProjects", projects.ListProjectsRequest(page_size=1), "everywhere")
    rest = projects.ListProjectsRequest(page_size=1, page_token=first.next_page_token)
    second = await made.call("ListProjects", rest, "everywhere")
    assert [page.projects[0].project_id for page in (first, second)] == ["acme", "default"]
    assert second.next_page_token == ""


async def test_metrics_name_at_most_as_many_projects_as_allowed_however_many_there_are() -> None:
    telemetry, clock, records = MemoryTelemetry(), ManualClock(), MemoryRecords()
    async with running(records) as store:
        gauges = ProjectGauges(store, Projects(store, lambda _: Limits(datasets=1000), clock), clock, telemetry)
        for number in range(MAX_NAMED + 10):
            name = f"projects/p{number:02d}/accounts/dataset"
            account = Account(name, resources=number + 1, held_bytes={"uploads": 10})
            await store.accounts.view.caught_up(await records.create(name, codec.encode(account)))
        for _ in range(2):
            await gauges.update()
        shares = {dict(labels)["project"] for name, labels in telemetry.values if name == metrics.PROJECT_SHARE.name}
        assert len(shares) == MAX_NAMED + 1
        assert {OTHER, "p59", "p10"} <= shares
        assert "p09" not in shares
        assert telemetry.value(metrics.PROJECT_SHARE, project="p59", quota=Quota.DATASETS) == 0.06
        assert telemetry.value(metrics.PROJECT_STORAGE, project=OTHER) == 100
        assert telemetry.value(metrics.PROJECT_SHARE, project=OTHER, quota=Quota.DATASETS) == 0.01
