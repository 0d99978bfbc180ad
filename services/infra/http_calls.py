"""What surrounds every request of an HTTP server: request id, limits, token, errors, metrics, span and log line."""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.infra import http_metrics, projects
from services.infra.admission import Admission, Place
from services.infra.auth import Guard
from services.infra.http_body import Arrival, Body, Scope
from services.infra.limits import Limits
from services.kit import callers, log, tracing
from services.kit.errors import Draining, Internal, RequestTimedOut, SightlineError
from services.kit.telemetry import Telemetry
from services.kit.tracing import Span, SpanKind

REQUEST_ID = "x-request-id"
HEALTH, READY = "/healthz", "/readyz"
TELL_SECONDS = 1.0  # between two updates of the gauges
UNKNOWN = "unknown"  # the route of every path that has none: callers must not be able to create time series
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_OUTCOMES = {HEALTH: b"alive\n", READY: b"ready\n"}

_log = log.Log(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Manners(Protocol):
    """What the application says about requests that it does not get to see, or fails to answer."""

    def metadata(self, scope: Scope) -> Iterable[tuple[str, str]]:
        """The request's token and project, as metadata of an rpc."""
        ...

    def is_open(self, scope: Scope) -> bool:
        """Whether the request needs no token."""
        ...

    async def refuse(self, scope: Scope, receive: Receive, send: Send, error: SightlineError) -> None:
        """Answers with the error, in the form of the request's API."""
        ...


@dataclass(slots=True)
class _Request:
    """A request in flight."""

    scope: Scope
    request_id: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    reason: str = ""
    place: Place | None = None


class HttpCalls:
    """The outermost ASGI application.

    Law: a request is counted, logged and limited from its headers on, before any of its body is read, and keeps its
    place until the last byte of its response is sent. The application reads the body by `scope["state"]["body"]`, which
    is a `Body`, and says in `scope["state"]["route"]` which route it was. The message of an unknown exception stays in
    the log, under the id in the response. With a guard, a request without a valid token gets no further,
    unless it is open to all.
    """

    def __init__(
        self, service: str, app: App, manners: Manners, telemetry: Telemetry, limits: Limits, guard: Guard | None
    ) -> None:
        self._service, self._app, self._manners = service, app, manners
        self._telemetry, self._limits, self._guard = telemetry, limits, guard
        self._admission = Admission(service, limits, telemetry)
        self.is_ready = True
        self._draining = False

    def retire(self) -> None:
        """From now on it is not ready, so that load balancers look elsewhere; requests are still answered."""
        self.is_ready = False

    def drain(self) -> None:
        """Refuses new requests from now on."""
        self._draining = True

    async def tell(self) -> None:
        """Keeps the gauges current until cancelled."""
        while True:
            self._admission.tell()
            await asyncio.sleep(TELL_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"] in _OUTCOMES:
            await answer_probe(scope, send, is_ready=self.is_ready)
            return
        request = _Request(scope, _request_id(scope))
        log.request_id.set(request.request_id)
        with self._telemetry.tracer.span(_method(scope), kind=SpanKind.SERVER, parent=_sender(scope)) as span:
            arrival = Arrival(scope, receive)
            await self._handle(request, arrival.receive, _watched(request, arrival, send, self._limits.request_seconds))
            self._describe(request, span)

    async def _handle(self, request: _Request, receive: Receive, watched: Send) -> None:
        try:
            async with asyncio.timeout(self._limits.stream_seconds):
                await self._answer(request, receive, watched)
        except Exception as error:  # noqa: BLE001 - whatever happens must become a response
            known = self._understand(request, error)
            request.reason = known.reason
            if not request.status:
                await self._manners.refuse(request.scope, receive, watched, known)
        finally:
            if request.place:
                self._admission.leave(request.place)
            self._record(request)

    async def _answer(self, request: _Request, receive: Receive, send: Send) -> None:
        scope, caller = request.scope, None
        metadata = tuple(self._manners.metadata(scope))
        if self._draining:
            raise Draining(service=self._service)
        if self._guard and not self._manners.is_open(scope):
            async with asyncio.timeout(self._limits.request_seconds):
                caller = await self._guard.recognize(f"{scope['method']} {scope['path'][:200]}", metadata)
            log.caller.set(caller.name)
        callers.act_in(caller.project if caller else projects.asked(metadata) or callers.DEFAULT_PROJECT)
        request.place = self._admission.enter(caller, stream=False)
        body = Body(scope, receive, self._admission, request.place, self._limits, self._telemetry)
        state = scope.setdefault("state", {})
        state |= {"body": body, "request_id": request.request_id}
        await self._app(scope, receive, send)

    def _understand(self, request: _Request, error: Exception) -> SightlineError:
        if isinstance(error, SightlineError):
            return error
        if isinstance(error, TimeoutError):
            return RequestTimedOut(rpc=request.scope["path"][:200], seconds=f"{self._limits.stream_seconds:g}")
        error_id = secrets.token_hex(8)
        _log.error("internal_error", error, error_id=error_id, path=request.scope["path"][:200])
        return Internal(error_id=error_id)

    def _describe(self, request: _Request, span: Span) -> None:
        """Says in the request's span what it was, without its path, and how it ended."""
        method, route = _method(request.scope), _route(request.scope)
        span.rename(f"{method} {route}")
        span.set("http.request.method", method)
        span.set("http.route", route)
        span.set("http.response.status_code", request.status)
        span.set("sightline.request_id", request.request_id)
        if request.status >= 500:
            span.fail(str(request.status))

    def _record(self, request: _Request) -> None:
        scope = request.scope
        state = scope.get("state", {})
        method = _method(scope)
        route = {"route": _route(scope), "method": method}
        seconds = time.perf_counter() - request.started
        self._telemetry.add(http_metrics.REQUESTS, 1, **route, status=str(request.status))
        self._telemetry.observe(http_metrics.SECONDS, seconds, **route)
        reason = request.reason or state.get("reason", "")
        _log.info(
            "request",
            method=method,
            path=scope["path"][:200],  # without the query, which may hold a caller's secret
            status=request.status,
            seconds=round(seconds, 6),
            peer=":".join(map(str, scope.get("client") or ())),
            **({"reason": reason} if reason else {}),
        )


async def answer_probe(scope: Scope, send: Send, *, is_ready: bool) -> None:
    """Answers `/healthz`, and `/readyz` by whether the server takes requests; 404 for any other path."""
    known = _OUTCOMES.get(scope["path"])
    status = 404 if known is None else 200 if is_ready or scope["path"] == HEALTH else 503
    body = known if known and status == 200 else b"not ready\n" if known else b"not found\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _watched(request: _Request, arrival: Arrival, send: Send, seconds: float) -> Send:
    """Sends, with the request's id in the headers, and notes the status.

    A response that does not need the rest of the request ends once that has come, or the seconds are over.
    """
    extra = [(REQUEST_ID.encode(), request.request_id.encode()), (b"x-content-type-options", b"nosniff")]

    async def watched(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            request.status = message["status"]
            message = message | {"headers": [*message.get("headers", ()), *extra]}
        elif not message.get("more_body", False) and not arrival.ended:
            await send(message | {"more_body": True})
            await arrival.discard(seconds)
            message = {"type": "http.response.body"}
        await send(message)

    return watched


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "other"


def _route(scope: Scope) -> str:
    return str(scope.get("state", {}).get("route", UNKNOWN))


def _sender(scope: Scope) -> tracing.TraceContext:
    return tracing.received((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])


def _request_id(scope: Scope) -> str:
    """The caller's id if it is fit for logs and headers, otherwise a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode() and _REQUEST_ID.fullmatch(text := value.decode("latin-1")):
            return text
    return secrets.token_hex(16)
