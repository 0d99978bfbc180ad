"""Calls that a caller's gRPC sends again because it heard no answer, though the first may have had its effect."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty

from services.kit.errors import NotFound

PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"  # the header of a repetition
Context = Any  # grpc.aio's


def repeatable(delete: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    """A deletion that succeeds where the attempt before had its effect and its answer was lost."""

    async def delete_again(request: Any, context: Context) -> Any:
        try:
            return await delete(request, context)
        except NotFound:
            if not _is_repeated(context):
                raise
            return Empty()

    return delete_again


def _is_repeated(context: Context) -> bool:
    """Whether the caller's gRPC sends the call again, as nobody answered before: the first one may have been done."""
    return any(key == PREVIOUS_ATTEMPTS for key, _ in context.invocation_metadata() or ())
