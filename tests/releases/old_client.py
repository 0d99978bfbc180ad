"""A client of another release: it knows the contract only as a FileDescriptorSet, and speaks JSON to its user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from sightline.client.transport.addresses import Addresses

SECONDS = 120.0
PACKAGE = "sightline.v1"
PLACES = {
    "DatasetService": "dataset",
    "ModelService": "trainer",
    "ModelAliasService": "trainer",
    "EvaluationService": "trainer",
    "ProjectService": "trainer",
    "PredictionService": "predictor",
}


class OldClient:
    """Calls of the contract in `file`; responses are read with it, so that later fields are unknown to it."""

    def __init__(self, file: Path, addresses: Addresses) -> None:
        self._pool = DescriptorPool()
        for proto in descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file:
            self._pool.Add(proto)
        self._channels = {
            name: grpc.insecure_channel(getattr(addresses, name), options=[("grpc.enable_http_proxy", 0)])
            for name in set(PLACES.values())
        }

    def service(self, name: str) -> ServiceDescriptor:
        """The service as this contract has it."""
        return self._pool.FindServiceByName(f"{PACKAGE}.{name}")

    def __call__(self, rpc: str, request: dict[str, Any] | Sequence[dict[str, Any]]) -> Any:
        """The response to `Service/Method`, or all of a stream; grpc.RpcError."""
        service, _, name = rpc.partition("/")
        method: MethodDescriptor = self.service(service).methods_by_name[name]
        sends, takes = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        kinds = {True: "stream", False: "unary"}
        make = getattr(
            self._channels[PLACES[service]], f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
        )
        call = make(
            f"/{PACKAGE}.{rpc}", request_serializer=sends.SerializeToString, response_deserializer=takes.FromString
        )
        parts = [self._parsed(one, sends()) for one in (request if isinstance(request, (list, tuple)) else [request])]
        answer = call(iter(parts) if method.client_streaming else parts[0], timeout=SECONDS)
        return [self._json(one) for one in answer] if method.server_streaming else self._json(answer)

    def _parsed(self, request: Any, message: Any) -> Any:
        return json_format.ParseDict(request, message, descriptor_pool=self._pool)

    def _json(self, message: Any) -> Any:
        return json_format.MessageToDict(message, descriptor_pool=self._pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels.values():
            channel.close()
