"""Aliases on the page of a model: those that have to do with it, and switching, rolling back and deleting one."""

from starlette.responses import Response

from services.gateway.studio.visit import Visit
from services.kit.errors import InvalidRequest
from sightline.v1.model_alias_pb2 import ModelAlias
from sightline.v1.model_alias_service_pb2 import (
    DeleteModelAliasRequest,
    ListModelAliasesRequest,
    RollBackModelAliasRequest,
    SetModelAliasRequest,
)

LISTED = 1000


async def known(visit: Visit, model: str) -> list[ModelAlias]:
    """The aliases that stand for a model, are named after it, or have stood for it."""
    request = ListModelAliasesRequest(page_size=LISTED)
    found = await visit.session.call(visit.session.services.aliases.ListModelAliases, request)
    return [
        one
        for one in found.model_aliases
        if one.name.startswith(f"{model}@") or any(switch.model == model for switch in one.switches)
    ]


async def choose(visit: Visit) -> Response:
    """Makes an alias stand for the model."""
    name, etag = await _asked(visit)
    request = SetModelAliasRequest(name=name, model=f"models/{visit.path('model')}", etag=etag)
    await visit.session.call(visit.session.services.aliases.SetModelAlias, request)
    return visit.to("models", visit.path("model"))


async def roll_back(visit: Visit) -> Response:
    """Switches an alias back to the model before."""
    name, etag = await _asked(visit)
    request = RollBackModelAliasRequest(name=name, etag=etag)
    await visit.session.call(visit.session.services.aliases.RollBackModelAlias, request)
    return visit.to("models", visit.path("model"))


async def delete(visit: Visit) -> Response:
    """Deletes an alias."""
    name, etag = await _asked(visit)
    request = DeleteModelAliasRequest(name=name, etag=etag)
    await visit.session.call(visit.session.services.aliases.DeleteModelAlias, request)
    return visit.to("models", visit.path("model"))


async def _asked(visit: Visit) -> tuple[str, str]:
    """The name of the form's alias, and its revision on the page: if it has changed since, the service refuses."""
    form = await visit.form()
    alias = form.get("alias", "").strip()
    if "@" not in alias:
        raise InvalidRequest(field="alias", problem="it has no @, as birds@production has")
    return f"models/{alias}", form.get("etag", "")
