"""How a call's requests arrive: within a time, a size, and the bytes that the server may hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from services.infra import audit, projects, server_metrics
from services.infra.admission import Admission
from services.infra.call import Call, Waiting
from services.infra.limits import Limits
from services.infra.server_metrics import REFUSED, Limit, Whose
from services.kit.errors import InvalidRequest, MessageTooLarge, RequestTimedOut, SightlineError
from services.kit.telemetry import Telemetry

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_EOF: Any = grpc.aio.EOF


class Requests:
    """Reads requests.

    Law: nothing is read before there is room for the largest message that the server takes. Until then gRPC keeps at
    most one flow-control window of it (64 KiB). A request that does not arrive in time ends its call.
    """

    def __init__(self, admission: Admission, limits: Limits, telemetry: Telemetry) -> None:
        self._admission, self._limits, self._telemetry = admission, limits, telemetry

    async def one(self, call: Call, handler: Handler) -> Any:
        """The request of a call that has just one."""
        raw = await self._read(call, self._seconds(call, first=True))
        if raw is None:
            raise InvalidRequest(field="request", problem="the call has none.")
        return self._parsed(call, handler, raw)

    def stream(self, call: Call, handler: Handler) -> AsyncIterator[Any]:
        """The requests of a stream, read as the handler asks for them."""
        return _Stream(self, call, handler)

    async def following(self, call: Call, handler: Handler, *, first: bool) -> Any:
        """The next request of a stream; StopAsyncIteration after the last."""
        raw = await self._read(call, self._seconds(call, first=first))
        if raw is None:
            raise StopAsyncIteration
        return self._parsed(call, handler, raw)

    def late(self, call: Call) -> SightlineError:
        """Why the call was ended while it waited."""
        if call.waiting is Waiting.ROOM and call.place:
            return self._admission.lack(call.place, self._limits.message_bytes)
        self._telemetry.add(REFUSED, limit=Limit.TIME, whose=Whose.REQUEST)
        return RequestTimedOut(rpc=call.rpc.method, seconds=f"{self._seconds(call, first=not call.begun):g}")

    def _seconds(self, call: Call, *, first: bool) -> float:
        """Within which the first request must come, or a further one of a stream."""
        seconds = self._limits.seconds_of(call.rpc.method)
        return seconds if first else max(seconds, self._limits.stream_idle_seconds)

    async def _read(self, call: Call, seconds: float) -> bytes | None:
        """The next message's bytes; None after the last."""
        call.limit(seconds)
        if call.place:
            call.waiting = Waiting.ROOM
            self._admission.hold(call.place, 0)
            await self._admission.room(call.place, self._limits.message_bytes)
        call.waiting = Waiting.REQUEST
        raw = await call.context.read()
        call.waiting, call.begun = Waiting.NOTHING, True
        call.limit(None)
        if call.place:
            self._admission.hold(call.place, 0 if raw is _EOF else len(raw))
        return None if raw is _EOF else raw

    def _parsed(self, call: Call, handler: Handler, raw: bytes) -> Any:
        self._telemetry.add(server_metrics.RECEIVED, 1, **call.rpc.labels)
        limit = self._limits.bytes_of(call.rpc.method)
        if len(raw) > limit:
            self._telemetry.add(REFUSED, limit=Limit.SIZE, whose=Whose.REQUEST)
            raise MessageTooLarge(rpc=call.rpc.method, size=len(raw), limit=limit)
        try:
            parsed = handler.request_deserializer(raw) if handler.request_deserializer else raw
        except DecodeError:
            raise InvalidRequest(field="request", problem=f"its bytes are not what {call.path} takes.") from None
        audit.about(parsed)
        return projects.incoming(parsed)


class _Stream:
    """A caller's stream of requests."""

    def __init__(self, requests: Requests, call: Call, handler: Handler) -> None:
        self._requests, self._call, self._handler = requests, call, handler
        self._first = True

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Any:
        first, self._first = self._first, False
        return await self._requests.following(self._call, self._handler, first=first)
