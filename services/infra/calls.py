"""What surrounds every call of a server: request id, limits, errors as statuses, metrics and log line."""

from __future__ import annotations

import asyncio
import inspect
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from services.infra import audit, server_metrics
from services.infra.audit import Audit
from services.infra.auth import Guard
from services.infra.lapse import while_admitted
from services.infra.repeats import repeatable
from services.infra.server_metrics import Rpc, RpcKind
from services.kit import callers, log
from services.kit.errors import (
    Draining,
    Internal,
    InvalidRequest,
    Overloaded,
    SightlineError,
    StreamExpired,
    UnknownMethod,
)
from services.kit.roles import OPEN
from services.kit.status import status_of
from services.kit.telemetry import Telemetry

REQUEST_ID = "x-request-id"
DETAILS = "grpc-status-details-bin"
NO_RESENDING = ("grpc-retry-pushback-ms", "-1")  # by the caller's gRPC itself
MAX_HOUSEKEEPING = 100  # calls at once: health needs no token, and must not use up the room for other calls
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_CODES: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}

_log = log.Log(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(eq=False, slots=True)
class Call:
    """A call in flight. `timeout` cancels it from within; rescheduling it to now ends the call (drain, limits)."""

    rpc: Rpc
    path: str
    context: Context
    timeout: asyncio.Timeout
    request_id: str
    started: float = field(default_factory=time.perf_counter)
    code: StatusCode = StatusCode.OK
    reason: str = ""
    lapse: Exception | None = None  # why its token is no longer valid

    def lapsed(self, refusal: Exception) -> None:
        """Ends the call with the refusal."""
        self.lapse = refusal
        self.expire()

    def expire(self) -> None:
        """Ends the call as soon as its handler can be interrupted; no effect if it has ended."""
        if not self.timeout.expired():
            self.timeout.reschedule(asyncio.get_running_loop().time())


class Calls(grpc.aio.ServerInterceptor):
    """The server's interceptor.

    Law: a failed call is answered with one status that has exactly one ErrorInfo; the message of an unknown exception
    stays in the log, under the id in the answer. A handler's own `context.abort` and cancellation pass through
    untouched. Handlers read requests from their argument, never with `context.read`. A Delete that the caller's gRPC
    retries because it got no answer succeeds even if the resource is gone. With a guard, a call that is not admitted is
    refused before any of its request is read, and counted like any other.
    """

    def __init__(
        self,
        service: str,
        telemetry: Telemetry,
        max_calls: int,
        max_stream_seconds: float,
        guard: Guard | None = None,
        auditing: Audit | None = None,
    ) -> None:
        self._service = service
        self._telemetry = telemetry
        self._guard = guard
        self._audit = auditing
        self._max_calls = max_calls
        self._max_stream_seconds = max_stream_seconds
        self._wrapped: dict[str, Handler] = {}
        self._live: set[Call] = set()  # in flight, except for housekeeping
        self._housekeeping: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    def drain(self) -> None:
        """Refuses new calls from now on, and ends those that never end by themselves."""
        self._draining = True
        for call in (*self._live, *self._housekeeping):
            if call.rpc.is_endless or call.rpc.is_housekeeping:
                call.expire()

    def expire(self) -> None:
        """Ends every call in flight."""
        for call in self._live:
            call.expire()

    async def idle(self) -> None:
        """Returns when no call is in flight."""
        await self._idle.wait()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], handler_call_details: Any
    ) -> Handler:
        path = str(handler_call_details.method)
        if path not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return self._refusing(server_metrics.UNKNOWN_RPC, path[:200], UnknownMethod(method=path[:200]))
            self._wrapped[path] = self._wrap(path, handler)
        wrapped = self._wrapped[path]
        if self._guard:
            try:
                caller = await self._guard.admit(path, handler_call_details.invocation_metadata or ())
            except Exception as error:  # noqa: BLE001 - whatever it is, the call is not admitted
                return self._refusing(_rpc(path, wrapped), path, error)
            callers.current.set(caller)
            log.caller.set(caller.name if caller else "")
        return wrapped

    def _refusing(self, rpc: Rpc, path: str, error: Exception) -> Handler:
        """A handler that fails the call with the error; as a stream handler, so that gRPC reads no request first."""

        async def refuse(_requests: Any, context: Context) -> None:
            async with self._around(rpc, path, context):
                raise error

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _wrap(self, path: str, handler: Handler) -> Handler:
        """The handler, wrapped; requests are parsed here, so that a malformed one gets a proper status."""
        rpc = _rpc(path, handler)
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        if path.rpartition("/")[2].startswith("Delete"):
            behaviour = repeatable(behaviour)
        requests = self._parser(rpc, path, handler)

        async def one_response(incoming: Any, context: Context) -> bytes:
            async with self._around(rpc, path, context):
                response = await behaviour(requests(incoming), context)
                data = handler.response_serializer(response) if handler.response_serializer else response
                self._telemetry.add(server_metrics.SENT, 1, **rpc.labels)
                return data

        async def many_responses(incoming: Any, context: Context) -> None:
            async with self._around(rpc, path, context):
                answer = behaviour(requests(incoming), context)
                if inspect.isawaitable(answer):  # a handler that writes by itself
                    await answer
                    return
                async with aclosing(answer) as responses:
                    async for response in responses:
                        await context.write(response)
                        self._telemetry.add(server_metrics.SENT, 1, **rpc.labels)

        match handler.request_streaming, handler.response_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(one_response)
            case True, False:
                return grpc.stream_unary_rpc_method_handler(one_response)
            case False, True:
                return grpc.unary_stream_rpc_method_handler(many_responses, None, handler.response_serializer)
            case _:
                return grpc.stream_stream_rpc_method_handler(many_responses, None, handler.response_serializer)

    def _parser(self, rpc: Rpc, path: str, handler: Handler) -> Callable[[Any], Any]:
        """What makes the handler's request, or stream of requests, of what arrives."""

        def parse(raw: bytes) -> Any:
            self._telemetry.add(server_metrics.RECEIVED, 1, **rpc.labels)
            try:
                request = handler.request_deserializer(raw) if handler.request_deserializer else raw
            except DecodeError:
                raise InvalidRequest(field="request", problem=f"its bytes are not what {path} takes.") from None
            audit.about(request)
            return request

        return partial(_Parsed, parse) if handler.request_streaming else parse

    @asynccontextmanager
    async def _around(self, rpc: Rpc, path: str, context: Context) -> AsyncGenerator[None]:
        limit = None if rpc.kind is RpcKind.UNARY else self._max_stream_seconds
        call = Call(rpc, path, context, asyncio.timeout(limit), _request_id(context))
        log.request_id.set(call.request_id)
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        self._telemetry.add(server_metrics.STARTED, 1, **rpc.labels)
        try:
            async with call.timeout:
                with self._admitted(call):
                    async with self._watching_token(call):
                        yield
        except grpc.aio.AbortError:
            call.code = context.code()
            raise
        except asyncio.CancelledError:
            late = context.time_remaining() == 0
            call.code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises must become a status
            await self._refuse(call, error)
        finally:
            self._record(call)

    def _watching_token(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Ends a stream once its caller would no longer be admitted."""
        if not self._guard or call.rpc.kind is RpcKind.UNARY or call.path in OPEN:
            return nullcontext()
        metadata = tuple(call.context.invocation_metadata() or ())
        return while_admitted(partial(self._guard.admit, call.path, metadata), call.lapsed)

    @contextmanager
    def _admitted(self, call: Call) -> Generator[None]:
        """Keeps the call among those in flight; Draining or Overloaded if there is no room for it."""
        place = self._housekeeping if call.rpc.is_housekeeping else self._live
        if place is self._live:
            if self._draining:
                raise Draining(service=self._service)
            if len(self._live) >= self._max_calls:
                raise Overloaded(service=self._service, limit=self._max_calls)
            self._idle.clear()
        elif len(place) >= MAX_HOUSEKEEPING:
            raise Overloaded(service=call.rpc.service, limit=MAX_HOUSEKEEPING)
        place.add(call)
        try:
            yield
        finally:
            place.remove(call)
            if not self._live:
                self._idle.set()

    async def _refuse(self, call: Call, error: Exception) -> None:
        """Fails the call with the error's status; raises what gRPC raises for that."""
        known = self._understand(call, error)
        status = status_of(known)
        call.code, call.reason = _CODES[status.code], known.reason
        trailers = ((REQUEST_ID, call.request_id), (DETAILS, status.SerializeToString()))
        if not known.resend:
            trailers = (*trailers, NO_RESENDING)
        await call.context.abort(call.code, status.message, trailers)

    def _understand(self, call: Call, error: Exception) -> SightlineError:
        if isinstance(error, TimeoutError) and call.timeout.expired():
            if call.lapse:
                return self._understand(call, call.lapse)
            if self._draining:
                return Draining(service=self._service)
            return StreamExpired(method=call.path, limit_seconds=self._max_stream_seconds)
        if known := _single(error):
            return known
        error_id = secrets.token_hex(8)
        _log.error("internal_error", error, error_id=error_id, method=call.path)
        return Internal(error_id=error_id)

    def _record(self, call: Call) -> None:
        if self._audit:
            self._audit.note(call.path, call.code.name, call.reason, call.request_id, call.context.peer())
        seconds = time.perf_counter() - call.started
        labels = call.rpc.labels
        self._telemetry.add(server_metrics.HANDLED, 1, **labels, grpc_code=server_metrics.code_name(call.code))
        self._telemetry.observe(server_metrics.SECONDS, seconds, **labels)
        write = _log.debug if call.rpc.is_housekeeping else _log.info
        about = {"reason": call.reason} if call.reason else {}
        write(
            "call", method=call.path, code=call.code.name, seconds=round(seconds, 6), peer=call.context.peer(), **about
        )


class _Parsed:
    """A caller's stream of requests, parsed as the handler reads them."""

    def __init__(self, parse: Callable[[bytes], Any], incoming: AsyncIterator[bytes]) -> None:
        self._parse = parse
        self._incoming = incoming

    def __aiter__(self) -> _Parsed:
        return self

    async def __anext__(self) -> Any:
        return self._parse(await anext(self._incoming))


def _rpc(path: str, handler: Handler) -> Rpc:
    return Rpc.of(path, request_streaming=handler.request_streaming, response_streaming=handler.response_streaming)


def _request_id(context: Context) -> str:
    """The caller's id if it is fit for logs and headers, otherwise a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(16)


def _single(error: Exception) -> SightlineError | None:
    """The SightlineError, also if a task group wrapped it; None if any other exception is among them."""
    if isinstance(error, ExceptionGroup):
        inner = [_single(one) for one in error.exceptions]
        return inner[0] if all(inner) else None
    return error if isinstance(error, SightlineError) else None
