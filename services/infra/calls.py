"""What surrounds every call of a server: request id, limits, errors as statuses, metrics, span and log line."""

from __future__ import annotations

import asyncio
import inspect
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc import StatusCode

from services.infra import projects, server_metrics
from services.infra.admission import Admission
from services.infra.audit import Audit
from services.infra.auth import Guard
from services.infra.call import Call, Context, Waiting
from services.infra.lapse import while_admitted
from services.infra.limits import Limits
from services.infra.open_calls import OpenCalls
from services.infra.repeats import repeatable
from services.infra.requests import Requests
from services.infra.server_metrics import Rpc, RpcKind
from services.kit import callers, log, tracing
from services.kit.errors import (
    Draining,
    Internal,
    Overloaded,
    SightlineError,
    StreamExpired,
    Unavailable,
    UnknownMethod,
)
from services.kit.roles import OPEN
from services.kit.status import status_of
from services.kit.telemetry import Telemetry
from services.kit.tracing import SpanKind

REQUEST_ID = "x-request-id"
DETAILS = "grpc-status-details-bin"
NO_RESENDING = ("grpc-retry-pushback-ms", "-1")  # by the caller's gRPC itself
TELL_SECONDS = 1.0  # between two updates of the gauges
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_CODES: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}

_log = log.Log(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Check: TypeAlias = Callable[["float | None"], None]  # see `server.Service`


class Calls(grpc.aio.ServerInterceptor):
    """The server's interceptor.

    Law: a call is counted, logged and limited from its headers on, before any of its request is read. Its end is
    counted before the caller hears of it. A failed call is answered with one status that has exactly one ErrorInfo; the
    message of an unknown exception stays in the log, under the id in the answer. A handler's own `context.abort` and
    cancellation pass through untouched. Handlers read requests from their argument, never with `context.read`. A Delete
    that the caller's gRPC retries because it got no answer succeeds even if the resource is gone. Handlers see names
    with their project, callers without.
    """

    def __init__(
        self,
        service: str,
        telemetry: Telemetry,
        limits: Limits,
        guard: Guard | None = None,
        auditing: Audit | None = None,
        checks: Mapping[str, Check] | None = None,
    ) -> None:
        self._service = service
        self._telemetry = telemetry
        self._guard = guard
        self._audit = auditing
        self._checks = checks or {}
        self._limits = limits
        self._admission = Admission(service, limits, telemetry)
        self._open = OpenCalls(limits.open_calls, telemetry)
        self._requests = Requests(self._admission, limits, telemetry)
        self._wrapped: dict[str, Handler] = {}
        self._live: set[Call] = set()  # in flight, except for housekeeping
        self._housekeeping: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def tell(self) -> None:
        """Keeps the gauges current until cancelled."""
        while True:
            self._admission.tell()
            self._open.tell()
            await asyncio.sleep(TELL_SECONDS)

    def drain(self) -> None:
        """Refuses new calls from now on, and ends those that never end by themselves or have not begun."""
        self._draining = True
        for call in (*self._live, *self._housekeeping):
            if call.rpc.is_endless or call.rpc.is_housekeeping or not call.begun:
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
                return self._unknown(path[:200])
            self._wrapped[path] = self._wrap(path, handler)
        return self._wrapped[path]

    def _unknown(self, path: str) -> Handler:
        """A handler that fails the call; as a stream handler, so that gRPC reads no request first."""

        async def refuse(_requests: Any, context: Context) -> None:
            async with self._around(server_metrics.UNKNOWN_RPC, path, context):
                raise UnknownMethod(method=path)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _wrap(self, path: str, handler: Handler) -> Handler:
        """The handler, wrapped.

        It takes a stream of requests, even if the rpc has just one: gRPC would read that before it calls the handler,
        and nobody would know of a call whose request never comes.
        """
        rpc = Rpc.of(path, request_streaming=handler.request_streaming, response_streaming=handler.response_streaming)
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        if path.rpartition("/")[2].startswith("Delete"):
            behaviour = repeatable(behaviour)
        serialize: Callable[[Any], bytes] = handler.response_serializer or bytes

        async def received(call: Call) -> Any:
            if handler.request_streaming:
                return self._requests.stream(call, handler)
            return await self._requests.one(call, handler)

        async def one_response(_incoming: Any, context: Context) -> bytes:
            async with self._around(rpc, path, context) as call:
                data = serialize(projects.outgoing(await behaviour(await received(call), context)))
                self._answer(call, len(data))
                return data

        async def many_responses(_incoming: Any, context: Context) -> None:
            async with self._around(rpc, path, context) as call:
                answer = behaviour(await received(call), context)
                if inspect.isawaitable(answer):  # a handler that writes by itself
                    await answer
                    return
                async with aclosing(answer) as responses:
                    async for response in responses:
                        shown = projects.outgoing(response)
                        held = call.place.bytes if call.place else 0
                        self._answer(call, held + shown.ByteSize())
                        await context.write(shown)
                        if call.place:
                            self._admission.hold(call.place, held)

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(many_responses, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(one_response)

    def _answer(self, call: Call, size: int) -> None:
        """Counts a response, and the bytes that the call holds until it is sent; raises if they are too many."""
        if call.place:
            self._admission.check(call.place, size)
        self._telemetry.add(server_metrics.SENT, 1, **call.rpc.labels)

    @asynccontextmanager
    async def _around(self, rpc: Rpc, path: str, context: Context) -> AsyncGenerator[Call]:
        call = Call(rpc, path, context, asyncio.timeout(None), _request_id(context))
        if rpc.kind is not RpcKind.UNARY:
            call.until = asyncio.get_running_loop().time() + self._limits.stream_seconds
        log.request_id.set(call.request_id)
        span = ExitStack()  # closed without the exceptions that tell gRPC of a failure
        if not rpc.is_housekeeping:
            attributes, sender = rpc.span_attributes, tracing.received(context.invocation_metadata() or ())
            around = self._telemetry.tracer.span(
                attributes["rpc.method"], attributes, kind=SpanKind.SERVER, parent=sender
            )
            call.span = span.enter_context(around)
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        self._telemetry.add(server_metrics.STARTED, 1, **rpc.labels)
        refusal = None
        try:
            async with call.timeout:
                try:
                    await self._admit(call)
                    async with self._watching_token(call):
                        yield call
                finally:
                    call.closed = True
        except grpc.aio.AbortError:
            call.code = context.code()
            raise
        except asyncio.CancelledError:
            late = context.time_remaining() == 0
            call.code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
            raise
        except grpc.aio.InternalError:  # what a write raises once the caller is gone
            call.code = StatusCode.CANCELLED
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001 - whatever a handler raises must become a status
            refusal = self._refusal(call, error)
        finally:
            self._forget(call)
            self._record(call)
            call.describe()
            span.close()
        if refusal:
            await context.abort(*refusal)

    def _watching_token(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Ends a stream once its caller would no longer be admitted."""
        if not self._guard or call.rpc.kind is RpcKind.UNARY or call.path in OPEN:
            return nullcontext()
        metadata = tuple(call.context.invocation_metadata() or ())
        return while_admitted(partial(self._guard.admit, call.path, metadata), call.lapsed)

    async def _admit(self, call: Call) -> None:
        """Gives the call a place, which it keeps until gRPC is done with it; otherwise raises."""
        if call.rpc is server_metrics.UNKNOWN_RPC:
            return
        caller, metadata = None, call.context.invocation_metadata() or ()
        if self._guard:
            call.waiting = Waiting.TOKEN
            call.limit(self._limits.request_seconds)
            caller = await self._guard.admit(call.path, metadata)
            callers.current.set(caller)
            log.caller.set(caller.name if caller else "")
            callers.act_in(caller.project if caller else callers.DEFAULT_PROJECT)
        elif call.path not in OPEN:
            callers.act_in(projects.asked(metadata) or callers.DEFAULT_PROJECT)
        if call.rpc.is_housekeeping:
            self._housekeeping.add(call)
        elif self._draining:
            raise Draining(service=self._service)
        else:
            self._live.add(call)
            self._idle.clear()
        if call.path in OPEN:
            place = call.open_place = self._open.enter(call.context.peer(), call.evict)
            call.when_sent(partial(self._open.leave, place))
        else:
            taken = call.place = self._admission.enter(caller, stream=call.rpc.kind is not RpcKind.UNARY)
            call.when_sent(partial(self._admission.leave, taken))
            if check := self._checks.get(call.rpc.method):
                check(call.context.time_remaining())
        call.waiting = Waiting.NOTHING
        call.limit(None)

    def _forget(self, call: Call) -> None:
        """The call's handler has ended; its place remains until the response is sent."""
        if call.open_place:
            call.open_place.is_answered = True
        self._housekeeping.discard(call)
        self._live.discard(call)
        if not self._live:
            self._idle.set()

    def _refusal(self, call: Call, error: Exception) -> tuple[StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
        """The code, message and trailers that tell the caller of the error."""
        known = self._understand(call, error)
        status = projects.shown_status(status_of(known), callers.acting_project())
        call.code, call.reason = _CODES[status.code], known.reason
        trailers = ((REQUEST_ID, call.request_id), (DETAILS, status.SerializeToString()))
        if not known.resend:
            trailers = (*trailers, NO_RESENDING)
        return call.code, status.message, trailers

    def _understand(self, call: Call, error: Exception) -> SightlineError:
        if isinstance(error, TimeoutError) and call.timeout.expired():
            if call.lapse:
                return self._understand(call, call.lapse)
            return self._end_of(call)
        if known := _single(error):
            return known
        error_id = secrets.token_hex(8)
        _log.error("internal_error", error, error_id=error_id, method=call.path)
        return Internal(error_id=error_id)

    def _end_of(self, call: Call) -> SightlineError:
        """Why the call's time was up."""
        if call.evicted:
            return Overloaded(service=call.rpc.service, limit=self._limits.open_calls, what="calls in flight")
        if self._draining and call.ended:
            return Draining(service=self._service)
        if call.waiting is Waiting.TOKEN:
            return Unavailable(what="The issuer of tokens", problem="its keys did not arrive in time")
        if call.waiting is not Waiting.NOTHING and not call.is_over:
            return self._requests.late(call)
        return StreamExpired(method=call.path, limit_seconds=self._limits.stream_seconds)

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
