"""The ModelAliasService: message in, use case, message out."""

from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from services.kit import names
from services.kit.caller_fields import check_request_id
from services.kit.records import Versioned
from services.kit.status import to_timestamp
from services.trainer.alias import Alias, Switch
from services.trainer.aliases import Aliases
from sightline.v1 import model_alias_pb2
from sightline.v1 import model_alias_service_pb2 as pb
from sightline.v1.model_alias_service_pb2_grpc import ModelAliasServiceServicer

Context = aio.ServicerContext[Any, Any]


class ModelAliasServicer(ModelAliasServiceServicer):
    """Raises errors of our tree; the server runtime turns them into statuses."""

    def __init__(self, aliases: Aliases) -> None:
        self._aliases = aliases

    async def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Context) -> model_alias_pb2.ModelAlias:
        model = names.check_model(request.model, "model")
        return _message(await self._aliases.set(names.check_alias(request.name), model, request.etag))

    async def GetModelAlias(self, request: pb.GetModelAliasRequest, context: Context) -> model_alias_pb2.ModelAlias:
        return _message(await self._aliases.get(names.check_alias(request.name)))

    async def ListModelAliases(
        self, request: pb.ListModelAliasesRequest, context: Context
    ) -> pb.ListModelAliasesResponse:
        found, token = self._aliases.page(request.page_size, request.page_token)
        return pb.ListModelAliasesResponse(model_aliases=list(map(_message, found)), next_page_token=token)

    async def RollBackModelAlias(
        self, request: pb.RollBackModelAliasRequest, context: Context
    ) -> model_alias_pb2.ModelAlias:
        request_id = check_request_id(request.request_id)
        return _message(await self._aliases.roll_back(names.check_alias(request.name), request.etag, request_id))

    async def DeleteModelAlias(self, request: pb.DeleteModelAliasRequest, context: Context) -> Empty:
        await self._aliases.delete(names.check_alias(request.name), request.etag)
        return Empty()


def _message(found: Versioned[Alias]) -> model_alias_pb2.ModelAlias:
    alias = found.value
    return model_alias_pb2.ModelAlias(
        name=alias.public_name,
        model=alias.model,
        etag=found.etag,
        create_time=to_timestamp(alias.create_time),
        update_time=to_timestamp(alias.switches[0].time),
        switches=map(_switch, alias.switches),
    )


def _switch(switch: Switch) -> model_alias_pb2.ModelAliasSwitch:
    return model_alias_pb2.ModelAliasSwitch(
        model=switch.model, switch_time=to_timestamp(switch.time), subject=switch.subject
    )
