"""The gRPC server of every service: health, reflection, limits, and a shutdown that loses no call."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.infra import audit, server_metrics
from services.infra.auth import guard_of
from services.infra.calls import Calls, Check
from services.infra.connections import STANDARD, Connections
from services.infra.limits import Limits
from services.infra.ports import listening
from services.infra.tls import server_credentials, tell_expiries
from services.kit.log import Log
from services.kit.settings import Settings, refuse_exposure
from services.kit.telemetry import Telemetry

PROBE_CONNECTIONS = 100
_LAST_SECONDS = 2.0  # to answer calls that the drain ended
_OPENING_SECONDS = 0.2  # between readiness checks before the first caller is let in

_log = Log(__name__)

Ready = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Service:
    """A servicer, its service, and the generated function that adds the servicer to a server.

    `request_bytes` has the rpcs whose requests may be larger than `limits.REQUEST_BYTES`. `checks` has those of which a
    call can be refused before its request is read: each takes the seconds until the call's deadline, None without one,
    and raises. The descriptor is `dataset_service_pb2.DESCRIPTOR.services_by_name["DatasetService"]`, for example.
    """

    descriptor: ServiceDescriptor
    add: Callable[[Any, Any], None]
    servicer: Any
    request_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    checks: Mapping[str, Check] = field(default_factory=dict[str, Check])


class Server:
    """Serves until stopped.

    Law: health is SERVING only while `ready` is true, for "" and for each service. Until `ready` is first true, callers
    wait for their connection or go to another replica instead of being refused; after `patience_seconds` they are let
    in anyway, to learn what is wrong. Shutdown: NOT_SERVING, then `drain_seconds` in which calls are still accepted, as
    load balancers need time to notice; then new calls and Watch streams end with Draining, and the others have
    `grace_seconds` to finish before they do too.

    The settings decide who may call; see `infra.tls` and `infra.auth`. SystemExit, TlsUnusable or AuthUnusable for
    settings under which it must not or cannot serve.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        telemetry: Telemetry,
        services: Sequence[Service],
        ready: Ready | None = None,
        ready_every_seconds: float = 2.0,
        patience_seconds: float = 10.0,
        connections: Connections = STANDARD,
    ) -> None:
        self._name = name
        self._settings = settings
        self._ready = ready
        self._ready_every_seconds = ready_every_seconds
        self._patience_seconds = patience_seconds
        self._names = [service.descriptor.full_name for service in services]
        refuse_exposure(settings)
        self._credentials = server_credentials(settings, telemetry)
        self._telemetry = telemetry
        sizes = {rpc: size for service in services for rpc, size in service.request_bytes.items()}
        limits = Limits.of(settings, sizes)
        self._audit = audit.of_settings(name, settings, telemetry)
        checks = {rpc: check for service in services for rpc, check in service.checks.items()}
        self._calls = Calls(name, telemetry, limits, guard_of(settings), self._audit, checks)
        self._health: Any = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue] - defined in an if
        self._grpc = grpc.aio.server(
            interceptors=[self._calls], options=connections.options(limits, settings.max_connections)
        )
        self._register(services)
        self._probe: Any = None
        if settings.probe_port:
            small = Limits.of(settings, {})
            self._probe = grpc.aio.server(
                interceptors=[Calls(f"{name}-probe", telemetry, small)],
                options=connections.options(small, PROBE_CONNECTIONS),
            )
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probe)
        self._readiness: asyncio.Task[None] | None = None
        self._expiries: asyncio.Task[None] | None = None
        self._gauges: asyncio.Task[None] | None = None
        self._open = asyncio.Event()

    def _register(self, services: Sequence[Service]) -> None:
        """Adds the services, health and reflection."""
        for service in services:
            service.add(service.servicer, self._grpc)
            server_metrics.declare(self._telemetry, service.descriptor)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)

    async def start(self) -> int:
        """Accepts calls, once it is ready; returns the port. PortUnusable."""
        host, port, probe_port = self._settings.host, self._settings.port, self._settings.probe_port
        with listening("SIGHTLINE_PORT", host, port):
            if self._credentials:
                port = self._grpc.add_secure_port(self._address(port), self._credentials)
            else:
                port = self._grpc.add_insecure_port(self._address(port))
        await self._set_health(serving=self._ready is None)
        if self._probe:
            with listening("SIGHTLINE_PROBE_PORT", host, probe_port):
                self._probe.add_insecure_port(self._address(probe_port))
            await self._probe.start()
        if self._ready:
            self._readiness = asyncio.create_task(self._follow(self._ready), name="readiness")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience_seconds):
                    await self._open.wait()
            self._open.set()
        await self._grpc.start()
        self._expiries = asyncio.create_task(tell_expiries(self._settings, self._telemetry), name="expiries")
        self._gauges = asyncio.create_task(self._calls.tell(), name="gauges")
        _log.info("server_started", port=port, services=self._names)
        return port

    def _address(self, port: int) -> str:
        host = self._settings.host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def run_until(self, stop: asyncio.Event) -> None:
        """Serves until the event is set, then drains."""
        await stop.wait()
        await self.drain()

    async def drain(self) -> None:
        """Shuts down as described above; returns when no call is left."""
        for task in (self._readiness, self._expiries, self._gauges):
            if task:
                task.cancel()
        await self._health.enter_graceful_shutdown()
        _log.info("server_draining")
        await asyncio.sleep(self._settings.drain_seconds)
        self._calls.drain()
        stopping = asyncio.create_task(
            self._grpc.stop(self._settings.grace_seconds + _LAST_SECONDS), name="stop server"
        )
        try:
            async with asyncio.timeout(self._settings.grace_seconds):
                await self._calls.idle()
        except TimeoutError:
            self._calls.expire()
        # A call that arrived just as the server stopped may be known to gRPC only, which would wait for it as long as
        # its caller does; when it is cut off, the caller tries again.
        await self._grpc.stop(_LAST_SECONDS)
        await stopping
        if self._probe:
            await self._probe.stop(0)
        if self._audit:
            await asyncio.to_thread(self._audit.close)
        _log.info("server_stopped")

    async def _follow(self, ready: Ready) -> None:
        """Keeps health in step with `ready`; an exception counts as not ready."""
        serving: bool | None = None
        while True:
            try:
                now = await ready()
            except Exception as error:  # noqa: BLE001 - a check that raises has failed
                _log.error("readiness_check_failed", error)
                now = False
            if now is not serving:
                serving = now
                await self._set_health(serving=now)
                _log.info("readiness_changed", serving=now)
            if now:
                self._open.set()
            await asyncio.sleep(self._ready_every_seconds if self._open.is_set() else _OPENING_SECONDS)

    async def _set_health(self, *, serving: bool) -> None:
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if serving else response.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)
