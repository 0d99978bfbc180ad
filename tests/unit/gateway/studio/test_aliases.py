"""Aliases on a model's page."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.kit.errors import EtagMismatch, NothingToRollBack
from sightline.v1.evaluation_service_pb2 import ListEvaluationsResponse
from sightline.v1.model_alias_pb2 import ModelAlias, ModelAliasSwitch
from sightline.v1.model_alias_service_pb2 import ListModelAliasesResponse
from sightline.v1.model_pb2 import Model
from tests.support.studio import browser

HOSTILE = "<script>alert(1)</script>\"'"


def alias(name: str, *models: str) -> ModelAlias:
    """An alias that stood for these models, the latest first."""
    switches = [
        ModelAliasSwitch(model=f"models/{model}", switch_time=Timestamp(seconds=60 * number), subject=HOSTILE)
        for number, model in reversed(list(enumerate(reversed(models), 1)))
    ]
    return ModelAlias(name=f"models/{name}", model=f"models/{models[0]}", etag=f"{name}-7", switches=switches)


ALIASES = [
    alias("birds@production", "new", "m"),
    alias("m@staging", "m"),
    alias("other@production", "new"),
    alias("other@test", "m", "new", "m"),
]
ANSWERS: dict[str, Any] = {
    "GetModel": lambda request: Model(name=request.name, state=Model.SUCCEEDED, model_version="v1"),
    "ListEvaluations": lambda request: ListEvaluationsResponse(),
    "ListModelAliases": lambda request: ListModelAliasesResponse(model_aliases=ALIASES),
}


async def test_a_models_page_has_the_aliases_that_have_to_do_with_it_and_their_switches():
    async with browser(ANSWERS) as one:
        page = (await one.open("/studio/models/m")).text
    for words in ("<h3>birds@production</h3>", "<h3>m@staging</h3>", "<h3>other@test</h3>", "1970-01-01 00:03"):
        assert words in page
    assert "other@production" not in page
    assert 'Stands for <a href="/studio/models/new">new</a>' in page
    assert page.count("Stands for this model.") == 2
    assert page.count("Switch to this model") == 1
    assert page.count("Roll back now") == 2  # not of the one that never stood for another
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("path", "rpc", "model"),
    [
        ("aliases", "SetModelAlias", "models/m"),
        ("aliases/rollback", "RollBackModelAlias", ""),
        ("aliases/delete", "DeleteModelAlias", ""),
    ],
)
async def test_an_alias_is_switched_rolled_back_or_deleted_as_the_page_had_it(path: str, rpc: str, model: str):
    async with browser(ANSWERS | {rpc: lambda request: ALIASES[0]}) as one:
        page = (await one.open("/studio/models/m")).text
        assert f'action="/studio/models/m/{path}"' in page
        assert 'name="etag" value="birds@production-7"' in page
        response = await one.post(f"/studio/models/m/{path}", alias="birds@production", etag="birds@production-7")
    assert (response.status_code, response.headers["location"]) == (303, "/studio/models/m")
    (asked,) = one.requests(rpc)
    assert (asked.name, asked.etag) == ("models/birds@production", "birds@production-7")
    assert getattr(asked, "model", "") == model


async def test_a_new_alias_is_typed():
    async with browser(ANSWERS | {"SetModelAlias": lambda request: ALIASES[0]}) as one:
        page = (await one.open("/studio/models/m")).text
        assert 'value="m@"' in page
        await one.post("/studio/models/m/aliases", alias=" cats@live ")
        refused = await one.post("/studio/models/m/aliases", alias="cats")
    assert refused.status_code == 400
    assert "birds@production" in refused.text
    (asked,) = one.requests("SetModelAlias")
    assert (asked.name, asked.model, asked.etag) == ("models/cats@live", "models/m", "")


async def test_what_the_service_refuses_is_told():
    def changed(_request: Any) -> Any:
        raise EtagMismatch(name="models/m@staging", etag="1", current="2")

    def nothing(_request: Any) -> Any:
        raise NothingToRollBack(name="models/m@staging")

    async with browser(ANSWERS | {"SetModelAlias": changed, "RollBackModelAlias": nothing}) as one:
        await one.open("/studio/models/m")
        switched = await one.post("/studio/models/m/aliases", alias="m@staging", etag="1")
        rolled_back = await one.post("/studio/models/m/aliases/rollback", alias="m@staging", etag="1")
    assert switched.status_code == 412
    assert rolled_back.status_code == 400
    assert "m@staging" in rolled_back.text


@pytest.mark.parametrize(("roles", "changes"), [(("viewer",), False), (("trainer",), True), ((), True)])
async def test_only_who_may_change_aliases_is_offered_it(roles: tuple[str, ...], changes: bool):
    async with browser(ANSWERS, roles=roles) as one:
        page = (await one.open("/studio/models/m")).text
    assert "<h3>birds@production</h3>" in page
    assert ("/models/m/aliases" in page) == changes


async def test_a_model_without_a_version_cannot_be_chosen():
    training = ANSWERS | {"GetModel": lambda request: Model(name=request.name, state=Model.FAILED)}
    async with browser(training) as one:
        page = (await one.open("/studio/models/m")).text
    assert "Switch to this model" not in page
    assert "Let it stand for this model" not in page
    assert "Roll back now" in page
