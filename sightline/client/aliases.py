"""`client.aliases`: names that stand for models, such as `birds@production`, and can be switched at once."""

from sightline.client.calls import AsyncCalls, Calls
from sightline.client.names import Named, full_name
from sightline.client.results.alias import Alias
from sightline.v1 import model_alias_service_pb2 as service

MODELS = "models"


class Aliases:
    """The aliases of a `Client`. An alias is named `birds@production`, and can be used like a model's name."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def set(self, name: str | Named, model: str | Named, *, etag: str = "") -> Alias:
        """From now on the alias stands for the model; creates the alias if there is none.

        Raises ModelNotFound, ModelNotReady if the model cannot predict, and EtagMismatch.
        """
        request = service.SetModelAliasRequest(name=full_name(MODELS, name), model=full_name(MODELS, model), etag=etag)
        return Alias.of(self._calls.ask(self._calls.stubs.aliases.SetModelAlias, request))

    def get(self, name: str | Named) -> Alias:
        """One alias, with its last switches; ModelAliasNotFound."""
        request = service.GetModelAliasRequest(name=full_name(MODELS, name))
        return Alias.of(self._calls.ask(self._calls.stubs.aliases.GetModelAlias, request))

    def list(self) -> tuple[Alias, ...]:
        """All aliases, by name."""
        response = self._calls.pages(self._calls.stubs.aliases.ListModelAliases, service.ListModelAliasesRequest())
        return tuple(Alias.of(message) for message in response.model_aliases)

    def roll_back(self, name: str | Named, *, etag: str = "") -> Alias:
        """Switches back to the model before the last switch; ModelAliasNotFound, NothingToRollBack, EtagMismatch."""
        request = service.RollBackModelAliasRequest(name=full_name(MODELS, name), etag=etag)
        return Alias.of(self._calls.ask(self._calls.stubs.aliases.RollBackModelAlias, request))

    def delete(self, name: str | Named) -> None:
        """Deletes an alias; the model stays. ModelAliasNotFound."""
        request = service.DeleteModelAliasRequest(name=full_name(MODELS, name))
        self._calls.ask(self._calls.stubs.aliases.DeleteModelAlias, request)


class AsyncAliases:
    """The aliases of an `AsyncClient`, with the methods of `Aliases`."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def set(self, name: str | Named, model: str | Named, *, etag: str = "") -> Alias:
        """As `Aliases.set`."""
        request = service.SetModelAliasRequest(name=full_name(MODELS, name), model=full_name(MODELS, model), etag=etag)
        return Alias.of(await self._calls.ask(self._calls.stubs.aliases.SetModelAlias, request))

    async def get(self, name: str | Named) -> Alias:
        """One alias, with its last switches; ModelAliasNotFound."""
        request = service.GetModelAliasRequest(name=full_name(MODELS, name))
        return Alias.of(await self._calls.ask(self._calls.stubs.aliases.GetModelAlias, request))

    async def list(self) -> tuple[Alias, ...]:
        """All aliases, by name."""
        request = service.ListModelAliasesRequest()
        response = await self._calls.pages(self._calls.stubs.aliases.ListModelAliases, request)
        return tuple(Alias.of(message) for message in response.model_aliases)

    async def roll_back(self, name: str | Named, *, etag: str = "") -> Alias:
        """As `Aliases.roll_back`."""
        request = service.RollBackModelAliasRequest(name=full_name(MODELS, name), etag=etag)
        return Alias.of(await self._calls.ask(self._calls.stubs.aliases.RollBackModelAlias, request))

    async def delete(self, name: str | Named) -> None:
        """Deletes an alias; the model stays. ModelAliasNotFound."""
        request = service.DeleteModelAliasRequest(name=full_name(MODELS, name))
        await self._calls.ask(self._calls.stubs.aliases.DeleteModelAlias, request)
