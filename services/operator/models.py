"""What the operator does with models: with the one that a resource describes, and at its end with those retrained."""

from collections.abc import AsyncGenerator
from typing import Any

from services.operator.resource import Resource
from services.operator.retrained import retrained
from services.operator.retraining import ENDED, delete, delete_evaluations
from services.operator.spec import MASK, changed, gone, own_fields, parsed, seconds
from sightline.client.calls import AsyncCalls
from sightline.client.errors import InvalidArgument, ModelInUse, NotFound
from sightline.v1 import model_alias_service_pb2 as aliases
from sightline.v1 import model_pb2
from sightline.v1 import model_service_pb2 as models


class Models:
    """Models, and the alias that stands for one once it can predict."""

    plural = "models"

    def name_of(self, resource: Resource) -> str:
        return f"models/{resource.name}"

    async def create(self, calls: AsyncCalls, resource: Resource) -> model_pb2.Model:
        request = models.CreateModelRequest(
            model=parsed(resource, model_pb2.Model()), model_id=resource.name, request_id=resource.uid
        )
        return await calls.ask(calls.stubs.models.CreateModel, request)

    async def get(self, calls: AsyncCalls, name: str) -> model_pb2.Model:
        return await calls.ask(calls.stubs.models.GetModel, models.GetModelRequest(name=name))

    async def update(self, calls: AsyncCalls, resource: Resource, found: model_pb2.Model) -> model_pb2.Model:
        wanted = parsed(resource, model_pb2.Model())
        if own_fields(wanted) != own_fields(found):
            request = models.UpdateModelRequest(model=changed(wanted, found), update_mask=MASK)
            found = await calls.ask(calls.stubs.models.UpdateModel, request)
        return found

    async def finish(self, calls: AsyncCalls, resource: Resource, found: model_pb2.Model) -> dict[str, Any]:
        """Sets the alias, once: from then on retraining and whoever switches it or rolls it back decide."""
        alias = resource.spec.get("alias", "")
        if found.model_version and alias not in ("", resource.status.get("alias")):
            serving = resource.status.get("servingModel") or found.name
            request = aliases.SetModelAliasRequest(name=f"{found.name}@{alias}", model=serving)
            await calls.ask(calls.stubs.aliases.SetModelAlias, request)
            return {"alias": alias}
        return {}

    async def watch(self, calls: AsyncCalls, name: str) -> AsyncGenerator[model_pb2.Model]:
        async for message in calls.watch(calls.stubs.models.WatchModel, models.WatchModelRequest(name=name)):
            yield message.model

    async def remove(self, calls: AsyncCalls, resource: Resource, name: str) -> bool:
        """Deletes it and what retraining has made, after cancelling, and the alias. ModelInUse for another alias.

        What is still being trained stops even if something else cannot be deleted.
        """
        refused, are_gone = list[ModelInUse](), list[bool]()
        for one in (*(one.model for one in retrained(resource)), name):
            try:
                are_gone.append(await self._remove_one(calls, resource, one))
            except ModelInUse as error:
                refused.append(error)
        if refused:
            raise refused[0]
        for one in retrained(resource):
            await delete_evaluations(calls, one)
        return all(are_gone)

    async def _remove_one(self, calls: AsyncCalls, resource: Resource, model: str) -> bool:
        try:
            return await delete(calls, model)
        except ModelInUse:
            alias = f"{self.name_of(resource)}@{resource.status.get('alias')}"
            if not await self._remove_alias(calls, alias, model):
                raise
        return False

    async def _remove_alias(self, calls: AsyncCalls, alias: str, model: str) -> bool:
        """Whether the alias stood for the model, and is deleted."""
        try:
            found = await calls.ask(calls.stubs.aliases.GetModelAlias, aliases.GetModelAliasRequest(name=alias))
        except (InvalidArgument, NotFound):
            return False
        if found.model != model:
            return False
        request = aliases.DeleteModelAliasRequest(name=alias, etag=found.etag)
        return await gone(calls.ask(calls.stubs.aliases.DeleteModelAlias, request))

    def has_ended(self, found: model_pb2.Model) -> bool:
        return found.state in ENDED

    def summary(self, found: model_pb2.Model) -> dict[str, Any]:
        progress = found.progress
        metric = f"{progress.metric_name} {progress.metric_value:.3f}" if progress.HasField("metric_value") else ""
        return {
            "state": model_pb2.Model.State.Name(found.state),
            "progress": f"{progress.fraction:.0%}",
            "metric": metric,
            "cost": seconds(found.training_cost),
            "version": found.model_version,
            "trainedDatasetVersion": found.training_dataset_version,
        }
