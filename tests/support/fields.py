"""Calls every rpc of a service with requests that lack something, and looks at the field which the error names."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import grpc
from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest
from grpc_status.rpc_status import from_call

from services.kit.errors import SightlineError

MAX_DEPTH = 5  # of nested messages


def incomplete(service: ServiceDescriptor) -> Iterator[tuple[MethodDescriptor, Message]]:
    """Each rpc with an empty request, and with one for each name in it, in which only that is set, to no name."""
    for method in service.methods:
        kind = GetMessageClass(method.input_type)
        yield method, kind()
        for path in _names(method.input_type):
            request: Any = kind()
            *outer, last = path.split(".")
            inner = request
            for part in outer:
                inner = getattr(inner, part)
            setattr(inner, last, "no name")
            yield method, request


async def failure(stub: Any, method: MethodDescriptor, request: Message) -> grpc.aio.AioRpcError | None:
    """What the call fails with, if it does."""
    rpc = getattr(stub, method.name)
    call = rpc(_once(request) if method.client_streaming else request)
    try:
        if method.server_streaming:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    except SightlineError as error:  # of a channel that translates them
        return cast(grpc.aio.AioRpcError, error.__cause__)
    return None


def named(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields in the error's BadRequest."""
    status, found = from_call(error), BadRequest()  # pyright: ignore[reportArgumentType] - it has what a call has
    details = status.details if status else ()
    return [violation.field for detail in details if detail.Unpack(found) for violation in found.field_violations]


def has(message: Descriptor, path: str) -> bool:
    """Whether the path leads to a field, or to a oneof, of the message."""
    first, _, rest = path.partition(".")
    field = message.fields_by_name.get(first)
    if not rest:
        return field is not None or first in message.oneofs_by_name
    return field is not None and field.message_type is not None and has(field.message_type, rest)


async def _once(request: Message) -> AsyncIterator[Message]:
    yield request


def _names(message: Descriptor, depth: int = MAX_DEPTH) -> Iterator[str]:
    """The paths of single fields that hold a resource's name."""
    for field in message.fields:
        inner = None if field.is_repeated or not depth else field.message_type
        if inner and inner.file.package.startswith("sightline"):
            yield from (f"{field.name}.{path}" for path in _names(inner, depth - 1))
        elif not field.is_repeated and field.GetOptions().HasExtension(resource_pb2.resource_reference):  # pyright: ignore[reportArgumentType] - generated stubs differ
            yield field.name
