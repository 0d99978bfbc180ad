"""The asyncio version of `sightline.client.transport.connection`."""

from collections.abc import Callable
from typing import Any, cast

import grpc

from sightline.client.transport.channel import DEADLINE_SECONDS, options_for
from sightline.client.transport.connection import caller_metadata, warn
from sightline.client.transport.credentials import Credentials
from sightline.client.transport.reopening import AsyncReopeningChannel
from sightline.client.transport.request_ids import with_request_id


def open_channel(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """The channel, to be closed or used as a context manager; CredentialsError if the credentials are unusable.

    Needs a running event loop. Certificates and the token file are reloaded when they change.
    """
    credentials.check(address)
    token, options = credentials.watch_token(warn), options_for(address)
    interceptors = [kind(token, credentials.project) for kind in (_Unary, _UnaryStream, _StreamUnary)]
    if not credentials.ca:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)

    def secure(now: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, now, options=options, interceptors=interceptors)

    return cast("grpc.aio.Channel", AsyncReopeningChannel(credentials.watch_channel(warn), secure))


class _Completing:
    """Puts the current token, the project and the caller's trace on each call that has none."""

    def __init__(self, token: Callable[[], str], project: str) -> None:
        self._token, self._project = token, project

    def _completed(self, details: Any, timeout: float | None = None) -> grpc.aio.ClientCallDetails:
        """The details with token, project and trace and, unless the caller set a deadline, this one."""
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        for name, value in caller_metadata(self._token(), self._project):
            if name not in metadata:
                metadata.add(name, value)
        timeout = timeout if details.timeout is None else details.timeout
        return grpc.aio.ClientCallDetails(
            details.method, timeout, metadata, details.credentials, details.wait_for_ready
        )


class _Unary(_Completing, grpc.aio.UnaryUnaryClientInterceptor):
    """Also gives the call a deadline, and its request an id."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._completed(client_call_details, DEADLINE_SECONDS), with_request_id(request))


class _UnaryStream(_Completing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._completed(client_call_details), request)


class _StreamUnary(_Completing, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._completed(client_call_details), request_iterator)
