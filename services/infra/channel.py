"""Calls to another service: its errors are raised as ours, and the request id and the trace are passed on."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import grpc

from services.infra import projects
from services.kit import log, tracing
from services.kit.errors import Code, Failure, RemoteError, SightlineError, Unavailable
from sightline.client.transport.channel import DEADLINE_SECONDS, describe, options_for
from sightline.client.transport.connection import AUTHORIZATION, bearer
from sightline.client.transport.credentials import Credentials
from sightline.client.transport.diagnosis import explain
from sightline.client.transport.reopening import AsyncReopeningChannel

REQUEST_ID = "x-request-id"
PLAIN = Credentials()

_log = log.Log(__name__)


def open_channel(
    address: str, deadline_seconds: float = DEADLINE_SECONDS, credentials: Credentials = PLAIN
) -> grpc.aio.Channel:
    """A channel to every replica behind the address; close it when done. CredentialsError if it would be unsafe.

    Unary calls have the default deadline unless they set their own, and are retried while no server answers. They and
    response streams raise SightlineErrors; services stream no requests to one another. Each call uses the current token
    and certificates, even after their files are replaced. Names in requests and answers are full: each call acts in the
    project of the names in its request.
    """
    credentials.check(address)
    about = _About(address, credentials, credentials.watch_token(_tell))
    interceptors, options = [_Unary(about, deadline_seconds), _Stream(about)], options_for(address)
    if not credentials.ca:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)

    def secure(now: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, now, options=options, interceptors=interceptors)

    return cast("grpc.aio.Channel", AsyncReopeningChannel(credentials.watch_channel(_tell), secure))


def _tell(error: Exception) -> None:
    _log.error("credentials_unusable", error)


@dataclass(frozen=True, slots=True)
class _About:
    """What the calls of a channel have in common."""

    address: str
    credentials: Credentials
    token: Callable[[], str]


def error_from(
    error: grpc.aio.AioRpcError, address: str = "the service", credentials: Credentials = PLAIN
) -> SightlineError:
    """The error raised by the other service; RemoteError for one that this version does not know.

    A failure that did not come from Sightline, such as a refused connection, is Unavailable or a RemoteError.
    """
    rich = describe(error)
    code = Code(error.code().value[0])
    if not rich.reason and code is Code.UNAVAILABLE:
        advice = explain(rich.message, credentials, address)
        return Unavailable(what=address, problem=f"{rich.message} - {advice}" if advice else rich.message)
    failure = Failure(code, rich.reason, rich.message, rich.metadata)
    return _classes().get((rich.reason, code), RemoteError).restore(failure)


@cache
def _classes() -> dict[tuple[str, Code], type[SightlineError]]:
    """The class of each reason and code; of several, the one named like the reason, or else the nearest to the root."""
    found: dict[tuple[str, Code], type[SightlineError]] = {}
    level = SightlineError.__subclasses__()
    while level:
        for kind in level:
            key = kind.reason, kind.code
            if key not in found or kind.__name__.lower() == kind.reason.lower():
                found[key] = kind
        level = [below for kind in level for below in kind.__subclasses__()]
    return found


def _completed(details: Any, token: str, timeout: float | None, project: str) -> grpc.aio.ClientCallDetails:
    """The call's details with the current request id and trace, our token, the project, and a deadline."""
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    if projects.PROJECT not in metadata:
        metadata.add(projects.PROJECT, project)
    if log.request_id.get() and REQUEST_ID not in metadata:
        metadata.add(REQUEST_ID, log.request_id.get())
    if tracing.TRACEPARENT not in metadata:
        for header in tracing.current().headers:
            metadata.add(*header)
    if token and AUTHORIZATION not in metadata:
        metadata.add(*bearer(token))
    deadline = timeout if details.timeout is None else details.timeout
    return grpc.aio.ClientCallDetails(details.method, deadline, metadata, details.credentials, details.wait_for_ready)


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, about: _About, deadline_seconds: float) -> None:
        self._about = about
        self._deadline_seconds = deadline_seconds

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        request, project = projects.local_request(request)
        details = _completed(client_call_details, self._about.token(), self._deadline_seconds, project)
        call = await continuation(details, request)
        try:
            return projects.qualified(await call, project)
        except grpc.aio.AioRpcError as error:
            raise error_from(error, self._about.address, self._about.credentials) from error


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, about: _About) -> None:
        self._about = about

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> AsyncIterator[Any]:
        request, project = projects.local_request(request)
        details = _completed(client_call_details, self._about.token(), None, project)
        return self._responses(await continuation(details, request), project)

    async def _responses(self, call: Any, project: str) -> AsyncGenerator[Any]:
        try:
            async for response in call:
                yield projects.qualified(response, project)
        except grpc.aio.AioRpcError as error:
            raise error_from(error, self._about.address, self._about.credentials) from error
        finally:
            call.cancel()
