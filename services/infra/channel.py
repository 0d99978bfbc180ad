"""Calls to another service: its errors come back as ours, and the request's id goes along."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import cache
from typing import Any

import grpc

from services.kit import log
from services.kit.errors import Code, Failure, RemoteError, SightlineError, Unavailable
from sightline.channel import DEADLINE_SECONDS, OPTIONS, describe

REQUEST_ID = "x-request-id"


def open_channel(address: str, deadline_seconds: float = DEADLINE_SECONDS) -> grpc.aio.Channel:
    """A channel to every replica behind the address; close it when done.

    Unary calls have the deadline unless they bring their own, and are tried again while nobody answers. Unary calls
    and streams of responses raise SightlineErrors; services stream no requests to one another.
    """
    interceptors = [_Unary(address, deadline_seconds), _Stream(address)]
    return grpc.aio.insecure_channel(address, options=OPTIONS, interceptors=interceptors)


def error_from(error: grpc.aio.AioRpcError, address: str = "the service") -> SightlineError:
    """The error that the other side raised; RemoteError for one that this version does not know.

    An answer that did not come from Sightline, as when nobody listens, is Unavailable or a RemoteError.
    """
    rich = describe(error)
    code = Code(error.code().value[0])
    if not rich.reason and code is Code.UNAVAILABLE:
        return Unavailable(what=address, problem=rich.message)
    failure = Failure(code, rich.reason, rich.message, rich.metadata)
    return _classes().get((rich.reason, code), RemoteError).restore(failure)


@cache
def _classes() -> dict[tuple[str, Code], type[SightlineError]]:
    """The error of each reason and code; of several, that of the reason's name, or else the one nearest to the root."""
    found: dict[tuple[str, Code], type[SightlineError]] = {}
    level = SightlineError.__subclasses__()
    while level:
        for kind in level:
            key = kind.reason, kind.code
            if key not in found or kind.__name__.lower() == kind.reason.lower():
                found[key] = kind
        level = [below for kind in level for below in kind.__subclasses__()]
    return found


def _with_request_id(details: Any, timeout: float | None) -> grpc.aio.ClientCallDetails:
    """The call's details with the id of the request that it serves, and a deadline where it has none."""
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    if log.request_id.get() and REQUEST_ID not in metadata:
        metadata.add(REQUEST_ID, log.request_id.get())
    deadline = timeout if details.timeout is None else details.timeout
    return grpc.aio.ClientCallDetails(details.method, deadline, metadata, details.credentials, details.wait_for_ready)


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, address: str, deadline_seconds: float) -> None:
        self._address = address
        self._deadline_seconds = deadline_seconds

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        call = await continuation(_with_request_id(client_call_details, self._deadline_seconds), request)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise error_from(error, self._address) from error


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, address: str) -> None:
        self._address = address

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> AsyncIterator[Any]:
        return self._responses(await continuation(_with_request_id(client_call_details, None), request))

    async def _responses(self, call: Any) -> AsyncGenerator[Any]:
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from(error, self._address) from error
        finally:
            call.cancel()
