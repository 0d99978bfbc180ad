"""The HTTP server of the gateway: limits from the connection on, tokens, TLS, probes, a shutdown that loses nothing."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.infra import http_tls
from services.infra.auth import Guard, guard_of
from services.infra.http_calls import HttpCalls
from services.infra.http_server import HttpServer
from services.infra.limits import Limits
from services.infra.ports import PortUnusable
from services.kit.errors import SightlineError
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry
from sightline.client import keys
from tests.support.certificates import Authority
from tests.support.logs import events

ALLOWED = 1000  # bytes of a body


@dataclass
class Application:
    """Answers with the body that it received; `/wait` only when it is told to, `/fail` not at all."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/fail":
            raise RuntimeError("a secret of the inside")
        if scope["path"] == "/wait":
            self.entered.set()
            await self.gate.wait()
        await answer(send, 200, await scope["state"]["body"].read(ALLOWED))

    def metadata(self, scope: dict[str, Any]) -> Iterable[tuple[str, str]]:
        return [(name.decode(), value.decode()) for name, value in scope["headers"] if name == b"authorization"]

    def is_open(self, scope: dict[str, Any]) -> bool:
        return scope["path"] == "/open"

    async def refuse(self, scope: dict[str, Any], receive: Any, send: Any, error: SightlineError) -> None:
        await answer(send, int(error.code) + 400, f"{error.reason}: {error.message}".encode())


async def answer(send: Callable[[dict[str, Any]], Awaitable[None]], status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Running:
    """A server that runs, and what it serves."""

    server: HttpServer
    application: Application
    port: int
    telemetry: MemoryTelemetry

    def client(self, **options: Any) -> httpx2.AsyncClient:
        scheme = "https" if "verify" in options else "http"
        return httpx2.AsyncClient(base_url=f"{scheme}://localhost:{self.port}", trust_env=False, **options)


@asynccontextmanager
async def serving(guard: Guard | None = None, **changes: Any) -> AsyncGenerator[Running]:
    """The server on a free port."""
    whole: dict[str, Any] = {"port": 0, "drain_seconds": 0.0, "grace_seconds": 5.0} | changes
    settings = Settings(**whole)
    telemetry, application = MemoryTelemetry(), Application()
    calls = HttpCalls("test", application, application, telemetry, Limits.of(settings, {}), guard)
    server = HttpServer(settings, telemetry, calls)
    port = await server.start()
    try:
        yield Running(server, application, port, telemetry)
    finally:
        application.gate.set()
        await server.drain()


async def raw(port: int, *parts: bytes) -> bytes:
    """What the server sends for these bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
    response = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return response


@pytest.mark.parametrize("setting", ["port", "probe_port"])
async def test_a_port_in_use_is_named_with_its_setting(setting: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnusable, match=f"SIGHTLINE_{setting.upper()}: nothing can listen on port {port}"):
            async with serving(**{setting: port}):
                pass


async def test_a_body_that_is_announced_as_too_large_is_refused_before_any_of_it_is_sent():
    async with serving() as running:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1001\r\n\r\n"
        response = await raw(running.port, head)
    assert b"MessageTooLarge" in response
    assert b"1001 bytes" in response


async def test_a_body_of_unknown_size_is_refused_at_the_limit():
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with serving() as running, running.client() as client:
        allowed = await client.post("/", content=b"x" * ALLOWED)
        refused = await client.post("/", content=chunks())
    assert allowed.content == b"x" * ALLOWED
    assert refused.status_code == 408
    assert "MessageTooLarge" in refused.text


async def test_a_client_that_sends_all_of_a_body_before_it_reads_gets_its_refusal():
    """As urllib and Node's fetch do, which a reset connection tells nothing."""
    body = b"x" * 12_000_000
    async with serving() as running:
        for more in (b"Content-Length: 12000000\r\n\r\n" + body, b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body)):
            head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            response = await asyncio.to_thread(sent_whole, running.port, head + more)
            assert b"MessageTooLarge" in response


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def sent_whole(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


async def test_a_connection_on_which_no_whole_head_arrives_is_closed():
    async with serving(request_seconds=0.2) as running:
        assert await raw(running.port) == b""
        assert await raw(running.port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""


async def test_a_body_that_stops_arriving_ends_its_request():
    async with serving(request_seconds=0.2) as running:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n"
        response = await raw(running.port, head, b"12345")
    assert b"RequestTimedOut" in response
    assert running.telemetry.values["sightline_server_refused_total", (("limit", "time"), ("whose", "request"))] == 1


async def test_an_unknown_exception_is_in_the_log_under_the_id_of_the_response(log_stream: StringIO):
    async with serving() as running, running.client() as client:
        response = await client.get("/fail", headers={"X-Request-Id": "mine"})
    (logged,) = events(log_stream, "internal_error")
    assert "secret" not in response.text
    assert logged["error_id"] in response.text
    assert "a secret of the inside" in logged["exception"]["message"]
    assert response.headers["x-request-id"] == logged["request_id"] == "mine"


async def test_a_request_without_a_valid_token_is_refused_before_its_body_is_read(tmp_path: Path):
    token, line = keys.make("alice", "viewer")
    (tmp_path / "keys").write_text(f"{line}\n")
    guard = guard_of(Settings(auth_keys=tmp_path / "keys"))
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 900\r\n"
    async with serving(guard) as running, running.client() as client:
        response = await raw(running.port, head + b"Authorization: Bearer slk_wrong\r\n\r\n")
        good = await client.post("/", content=b"1", headers={"Authorization": f"Bearer {token}"})
        opened = await client.get("/open")
        health = await client.get("/healthz")
    assert b"Unauthenticated" in response
    assert b"slk_wrong" not in response
    assert [good.content, opened.status_code, health.status_code] == [b"1", 200, 200]


async def test_one_caller_does_not_occupy_all_places(tmp_path: Path):
    made = [keys.make(name, "viewer") for name in ("alice", "bob")]
    (tmp_path / "keys").write_text("".join(f"{line}\n" for _, line in made))
    alice, bob = ({"Authorization": f"Bearer {token}"} for token, _ in made)
    guard = guard_of(Settings(auth_keys=tmp_path / "keys"))
    async with serving(guard, max_calls=4, caller_share=0.25) as running, running.client() as client:
        waiting = asyncio.create_task(client.get("/wait", headers=alice))
        await running.application.entered.wait()
        refused = await client.get("/", headers=alice)
        other = await client.get("/", headers=bob)
        running.application.gate.set()
        assert (await waiting).status_code == 200
    assert "Throttled" in refused.text
    assert other.status_code == 200


async def test_a_shutdown_finishes_the_requests_in_flight_and_is_not_ready_meanwhile():
    async with serving(drain_seconds=0.3, probe_port=0) as running, running.client() as client:
        before = await client.get("/readyz")
        waiting = asyncio.create_task(client.get("/wait"))
        await running.application.entered.wait()
        draining = asyncio.create_task(running.server.drain())
        await asyncio.sleep(0)
        during = await client.get("/readyz")
        alive = await client.get("/healthz")
        running.application.gate.set()
        response = await waiting
        await draining
        with pytest.raises(httpx2.ConnectError):
            await client.get("/healthz")
    assert [before.status_code, during.status_code, alive.status_code] == [200, 503, 200]
    assert response.status_code == 200


async def test_a_new_certificate_is_shown_to_new_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_tls, "LOOK_SECONDS", 0.02)
    authority = Authority()
    certificate, key = authority.pair("first").write(tmp_path)
    context = ssl.create_default_context(cafile=str(authority.write(tmp_path)))

    def shown(port: int) -> str:
        with (
            socket.create_connection(("localhost", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            found: Any = secure.getpeercert()
            return str(dict(part[0] for part in found["subject"])["commonName"])

    async with serving(tls_certificate=certificate, tls_key=key) as running:
        async with running.client(verify=context) as client:
            assert (await client.get("/healthz")).status_code == 200
        assert await asyncio.to_thread(shown, running.port) == "first"
        authority.pair("second").write(tmp_path)
        async with asyncio.timeout(60):
            found = ""
            while found != "second":
                with suppress(ssl.SSLError):  # of a handshake just when the certificate changes
                    found = await asyncio.to_thread(shown, running.port)
        plain = await raw(running.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in plain


async def test_requests_are_counted_by_route_and_none_that_a_caller_invents():
    async with serving() as running, running.client() as client:
        for path in ("/a", "/b?secret=1"):
            await client.get(path)
    counted = {labels for (name, labels), _ in running.telemetry.values.items() if name.startswith("sightline_http")}
    assert counted == {(("method", "GET"), ("route", "unknown"), ("status", "200"))}
