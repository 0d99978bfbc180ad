"""How the body of an HTTP request arrives: within a size, a time, and the bytes that the server may hold."""

import asyncio
from contextlib import suppress
from typing import Any

from services.infra.admission import Admission, Place
from services.infra.limits import RECEIVING_BYTES_PER_SECOND, Limits
from services.infra.server_metrics import REFUSED, Limit, Whose
from services.kit.errors import InvalidRequest, MessageTooLarge, RequestTimedOut
from services.kit.telemetry import Telemetry

Scope = dict[str, Any]
LINGER_BYTES = 64 * 1024 * 1024  # larger than any honest image
LINGER_IDLE_SECONDS = 2.0


class Arrival:
    """What arrives of a request's body, whoever reads it; `receive` is ASGI's."""

    def __init__(self, scope: Scope, receive: Any) -> None:
        self._receive = receive
        self.ended = _announced(scope) == 0

    async def receive(self) -> Any:
        """The next message."""
        message = await self._receive()
        self.ended = not message.get("more_body", False)
        return message

    async def discard(self, seconds: float) -> None:
        """Forgets the rest of the body, unless it takes longer, pauses, or is larger than LINGER_BYTES.

        A connection that closes while the client still sends is reset, and few clients then see their response.
        """
        left = LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ended and left > 0:
                    async with asyncio.timeout(LINGER_IDLE_SECONDS):
                        left -= len((await self.receive()).get("body", b""))


class Body:
    """The body of one request, and what else it holds in memory.

    Law: nothing is read before there is room for all of it; how much the body is, its headers tell.
    """

    def __init__(
        self, scope: Scope, receive: Any, admission: Admission, place: Place, limits: Limits, telemetry: Telemetry
    ) -> None:
        self._what = f"{scope['method']} {scope['path'][:200]}"
        self._announced = _announced(scope)
        self._receive = receive
        self._admission, self._place, self._limits, self._telemetry = admission, place, limits, telemetry
        self._length = self._besides = 0

    async def hold(self, size: int) -> None:
        """Returns once there is room for so many bytes besides the body; Overloaded, Throttled.

        The request holds them until it ends or says again how many these are.
        """
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                await self._admission.room(self._place, self._length + size)
        except TimeoutError:
            raise self._admission.lack(self._place, self._length + size) from None
        self._besides = size

    async def read(self, limit: int) -> bytes:
        """The body; MessageTooLarge beyond the limit, RequestTimedOut if it does not arrive in time, Overloaded."""
        if self._announced > limit:
            raise self._too_large(self._announced, limit)
        size = limit if self._announced < 0 else self._announced
        seconds = self._limits.request_seconds + size / RECEIVING_BYTES_PER_SECOND
        waiting = True
        try:
            async with asyncio.timeout(seconds):
                await self._admission.room(self._place, self._besides + size)
                waiting = False
                found = await self._chunks(limit)
        except TimeoutError:
            if waiting:
                raise self._admission.lack(self._place, self._besides + size) from None
            self._telemetry.add(REFUSED, limit=Limit.TIME, whose=Whose.REQUEST)
            raise RequestTimedOut(rpc=self._what, seconds=f"{seconds:g}") from None
        self._length = len(found)
        self._admission.hold(self._place, self._besides + self._length)
        return found

    async def _chunks(self, limit: int) -> bytes:
        found = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise InvalidRequest(field="body", problem="the connection was closed before all of it arrived.")
            found += message.get("body", b"")
            if len(found) > limit:
                raise self._too_large(len(found), limit)
            if not message.get("more_body", False):
                return bytes(found)

    def _too_large(self, size: int, limit: int) -> MessageTooLarge:
        self._telemetry.add(REFUSED, limit=Limit.SIZE, whose=Whose.REQUEST)
        return MessageTooLarge(rpc=self._what, size=size, limit=limit)


def _announced(scope: Scope) -> int:
    """The size that the headers announce; -1 if they do not."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return -1 if any(name == b"transfer-encoding" for name, _ in scope["headers"]) else 0
