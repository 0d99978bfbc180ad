"""The gateway in this process, in front of stubs that answer as a test says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import grpc
import httpx2

from services.gateway import apis
from services.gateway.asgi import Gateway
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Services
from services.infra.auth import Guard
from services.infra.http_calls import HttpCalls
from services.infra.limits import Limits
from services.kit.errors import SightlineError
from services.kit.status import status_of
from services.kit.telemetry import MemoryTelemetry

BASE = "http://gateway.test"
Answer = Callable[[Any], Any]


def failed(error: SightlineError) -> grpc.aio.AioRpcError:
    """What a stub raises for the error of a service."""
    codes = {code.value[0]: code for code in grpc.StatusCode}
    details = grpc.aio.Metadata(("grpc-status-details-bin", status_of(error).SerializeToString()))
    return grpc.aio.AioRpcError(codes[int(error.code)], grpc.aio.Metadata(), details, error.message)


class Stub:
    """A stub whose rpcs are functions of their request: they return one answer or several, or raise."""

    def __init__(self, seen: list[Seen], answers: dict[str, Answer]) -> None:
        self._seen, self._answers = seen, answers

    def __getattr__(self, rpc: str) -> Callable[..., Any]:
        if rpc not in self._answers:
            raise AttributeError(f"the test gives no answer to {rpc}")

        def call(request: Any, metadata: Any = (), timeout: float | None = None) -> Any:
            return _Call(self._seen, Seen(rpc, request, dict(metadata), timeout), self._answers[rpc])

        return call


class _Call:
    """A call of any kind: awaited for its only answer, or iterated over."""

    def __init__(self, seen: list[Seen], call: Seen, answer: Answer) -> None:
        self._seen, self._call, self._answer = seen, call, answer

    async def _answered(self) -> Any:
        request = self._call.request
        request = [part async for part in request] if hasattr(request, "__aiter__") else request
        self._seen.append(replace(self._call, request=request))
        try:
            return self._answer(request)
        except SightlineError as error:
            raise failed(error) from None

    def __await__(self) -> Any:
        return self._answered().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        answers: Iterable[Any] = await self._answered()
        for one in answers:
            if isinstance(one, SightlineError):
                raise failed(one)
            yield one

    def cancel(self) -> bool:
        """As gRPC's calls have it."""
        return True


@dataclass(frozen=True)
class Seen:
    """A call that reached a service."""

    rpc: str
    request: Any
    metadata: dict[str, str]
    timeout: float | None = None


@dataclass
class Front:
    """The gateway, and the calls that it made."""

    client: httpx2.AsyncClient
    seen: list[Seen] = field(default_factory=list)

    async def __call__(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """The response to a request."""
        return await self.client.request(method, path, **options)

    def requests(self, rpc: str) -> list[Any]:
        """What the calls of an rpc carried."""
        return [one.request for one in self.seen if one.rpc == rpc]


@asynccontextmanager
async def front(answers: dict[str, Answer], **changes: Any) -> AsyncGenerator[Front]:
    """The gateway with these answers of the services, by rpc."""
    settings, seen = GatewaySettings(**changes), list[Seen]()
    gateway = Gateway(services_of(Stub(seen, answers)), settings, apis.served())
    async with served(gateway, settings) as client:
        yield Front(client, seen)


def services_of(stub: Stub) -> Services:
    """The services, all of them this stub."""
    one = cast("Any", stub)
    return Services(one, one, one, one, one, one, one)


@asynccontextmanager
async def served(
    application: Any,
    settings: GatewaySettings,
    guard: Guard | None = None,
    base: str = BASE,
    telemetry: MemoryTelemetry | None = None,
) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of the application, with what surrounds it in a gateway."""
    calls = HttpCalls(
        "gateway", application, application, telemetry or MemoryTelemetry(), Limits.of(settings, {}), guard
    )
    transport = httpx2.ASGITransport(app=cast("Any", calls))
    async with httpx2.AsyncClient(transport=transport, base_url=base) as client:
        yield client
