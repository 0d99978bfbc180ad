"""Calls that the caller's gRPC retries because it got no answer, though the first may have taken effect."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty

from services.kit.errors import NotFound

PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"  # the header of a retry
Context = Any  # grpc.aio's


def repeatable(delete: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    """A Delete that succeeds if a previous attempt took effect and its answer was lost."""

    async def delete_again(request: Any, context: Context) -> Any:
        try:
            return await delete(request, context)
        except NotFound:
            if not _is_repeated(context):
                raise
            return Empty()

    return delete_again


def _is_repeated(context: Context) -> bool:
    """Whether this is a retry by the caller's gRPC, so that an earlier attempt may have taken effect."""
    return any(key == PREVIOUS_ATTEMPTS for key, _ in context.invocation_metadata() or ())
