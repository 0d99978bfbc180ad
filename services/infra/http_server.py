"""The HTTP server of the gateway: limits on connections, TLS, probes, and a shutdown that loses no request."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from services.infra.http_body import Scope
from services.infra.http_calls import HttpCalls, Receive, Send, answer_probe
from services.infra.http_tls import http_tls
from services.infra.ports import listening
from services.infra.tls import tell_expiries
from services.kit.log import Log
from services.kit.settings import Settings, refuse_exposure
from services.kit.telemetry import Telemetry

KEEP_ALIVE_SECONDS = 75.0  # longer than clients and balancers keep idle connections, which they then close themselves
HEAD_BYTES = 32 * 1024  # of a request's line and headers; the longest token has 8 KiB
PROBE_CONNECTIONS = 100
_LAST_SECONDS = 2.0

_log = Log(__name__)


class HttpServer:
    """Serves until stopped.

    Law: a connection that does not send the whole head of a request in `request_seconds` is closed. Shutdown: not
    ready, then `drain_seconds` in which requests are still accepted, as load balancers need time to notice; then no
    more are, and those in flight have `grace_seconds` to finish.
    SystemExit or TlsUnusable for settings under which it must not or cannot serve.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry, calls: HttpCalls) -> None:
        refuse_exposure(settings)
        self._settings, self._telemetry, self._calls = settings, telemetry, calls
        self._tls = http_tls(settings, telemetry)
        self._server = self._made(calls, settings.max_connections, tls=True)
        self._probe = self._made(self._answer_probe, PROBE_CONNECTIONS, tls=False) if settings.probe_port else None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        """Accepts requests; returns the port. PortUnusable."""
        own = self._listening("SIGHTLINE_PORT", self._settings.port)
        port = int(own.getsockname()[1])
        self._start("server", self._server.serve([own]))
        if self._probe:
            probed = self._listening("SIGHTLINE_PROBE_PORT", self._settings.probe_port)
            self._start("probe", self._probe.serve([probed]))
        self._start("gauges", self._calls.tell())
        self._start("expiries", tell_expiries(self._settings, self._telemetry))
        if self._tls:
            self._start("certificates", self._tls.follow())
        await self._server.listening.wait()
        _log.info("server_started", port=port, tls=bool(self._tls))
        return port

    async def run_until(self, stop: asyncio.Event) -> None:
        """Serves until the event is set, then drains."""
        await stop.wait()
        await self.drain()

    async def drain(self) -> None:
        """Shuts down as described above; returns when no request is left."""
        self._calls.retire()
        _log.info("server_draining")
        await asyncio.sleep(self._settings.drain_seconds)
        self._calls.drain()
        serving, *others = self._tasks
        self._server.should_exit = True
        await asyncio.wait([serving], timeout=self._settings.grace_seconds + _LAST_SECONDS)
        for task in (serving, *others):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        _log.info("server_stopped")

    def _listening(self, setting: str, port: int) -> socket.socket:
        host = self._settings.host
        with listening(setting, host, port):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=2048)

    def _start(self, name: str, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    def _made(self, app: Any, connections: int, *, tls: bool) -> "_Quiet":
        context = self._tls.context if tls and self._tls else None
        config = uvicorn.Config(
            app,
            http=partial(_TimedProtocol, head_seconds=self._settings.request_seconds),  # pyright: ignore[reportArgumentType] - it makes protocols
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # anybody could send them
            server_header=False,
            limit_concurrency=connections,
            timeout_keep_alive=round(KEEP_ALIVE_SECONDS),
            timeout_graceful_shutdown=max(1, round(self._settings.grace_seconds)),
            h11_max_incomplete_event_size=HEAD_BYTES,
            ssl_context_factory=(lambda _config, _default: context) if context else None,
        )
        return _Quiet(config)

    async def _answer_probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer_probe(scope, send, is_ready=self._calls.is_ready)


class _Quiet(uvicorn.Server):
    """Leaves signals to the process, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _TimedProtocol(H11Protocol):
    """Closes a connection on which no request begins, or its head does not end, in time."""

    def __init__(self, *args: Any, head_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_seconds = head_seconds
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self._is_between_requests:
            self._expect_head()
        super().data_received(data)
        if self._head_timer and not self._is_between_requests:
            self._forget_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison] - None at first

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_seconds, self.transport.close)

    def _forget_head(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
