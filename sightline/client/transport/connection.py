"""A caller's channel to one service: encrypted if a CA is set; calls with deadline, token, project, ids and trace."""

import logging
from collections.abc import Callable
from typing import Any

import grpc

from sightline.client.transport.channel import DEADLINE_SECONDS, options_for
from sightline.client.transport.credentials import Credentials
from sightline.client.transport.reopening import ReopeningChannel
from sightline.client.transport.request_ids import RequestIds
from sightline.client.transport.trace_headers import trace_headers

AUTHORIZATION = "authorization"
PROJECT = "sightline-project"

_log = logging.getLogger(__name__)


def open_channel(address: str, credentials: Credentials) -> tuple[grpc.Channel, Callable[[], None]]:
    """The channel and its close function; CredentialsError before anything is sent if the credentials are unusable.

    Certificates and the token file are reloaded when they change; calls in flight are not disturbed.
    """
    credentials.check(address)
    options = options_for(address)
    bare: Any
    if credentials.ca:
        watched = credentials.watch_channel(warn)
        bare = ReopeningChannel(watched, lambda now: grpc.secure_channel(address, now, options=options))
    else:
        bare = grpc.insecure_channel(address, options=options)
    interceptors: list[Any] = [_Deadline(), RequestIds(), _Caller(credentials.watch_token(warn), credentials.project)]
    return grpc.intercept_channel(bare, *interceptors), bare.close


def connects(address: str, credentials: Credentials, seconds: float) -> bool:
    """Whether a channel to the address is ready within `seconds`."""
    channel, close = open_channel(address, credentials)
    try:
        grpc.channel_ready_future(channel).result(seconds)
    except grpc.FutureTimeoutError:
        return False
    finally:
        close()
    return True


def bearer(token: str) -> tuple[str, str]:
    """The metadata that carries a token."""
    return AUTHORIZATION, f"Bearer {token}"


def caller_metadata(token: str, project: str) -> list[tuple[str, str]]:
    """The metadata that says who calls, in which project and in which trace; nothing for what is empty."""
    return [*([bearer(token)] if token else []), *([(PROJECT, project)] if project else []), *trace_headers()]


def warn(error: Exception) -> None:
    """Logs that changed credentials are unusable, so that the former ones stay in force."""
    _log.warning("ignoring new credentials, which cannot be used: %s", error)


class _Details(grpc.ClientCallDetails):
    """A mutable copy of a call's details."""

    def __init__(self, details: grpc.ClientCallDetails) -> None:
        self.method, self.metadata, self.credentials = details.method, details.metadata, details.credentials
        self.wait_for_ready, self.compression = details.wait_for_ready, details.compression
        self.timeout = details.timeout


class _Deadline(grpc.UnaryUnaryClientInterceptor):
    """Gives each unary call a deadline unless the caller set one."""

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        timed = _Details(client_call_details)
        timed.timeout = DEADLINE_SECONDS if timed.timeout is None else timed.timeout
        return continuation(timed, request)


class _Caller(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts the current token, the project and the caller's trace on each call that has none."""

    def __init__(self, token: Callable[[], str], project: str) -> None:
        self._token, self._project = token, project

    def _completed(self, details: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
        changed = _Details(details)
        metadata = tuple(details.metadata or ())
        given = {name for name, _ in metadata}
        ours = caller_metadata(self._token(), self._project)
        changed.metadata = (*metadata, *(pair for pair in ours if pair[0] not in given))
        return changed

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        return continuation(self._completed(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        return continuation(self._completed(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return continuation(self._completed(client_call_details), request_iterator)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return continuation(self._completed(client_call_details), request_iterator)
