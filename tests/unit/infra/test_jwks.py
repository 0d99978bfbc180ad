"""Keys of an issuer at a url: cached, fetched at a bounded rate, and kept while the url is down."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from urllib3.exceptions import HTTPError

from services.infra import jwks
from services.infra.jwks import KEEP_SECONDS, REFRESH_SECONDS, RETRY_SECONDS, JwksUrl, fetcher, parse
from services.kit.clock import ManualClock, SystemClock
from services.kit.errors import Unavailable
from tests.support.certificates import Authority
from tests.support.logs import captured_log, events
from tests.support.tokens import Issuer
from tests.support.tokens import jwks as listed


class FakeUrl:
    """A url that counts requests, and may be down."""

    def __init__(self, *issuers: Issuer) -> None:
        self.issuers, self.asked, self.down = list(issuers), 0, False

    async def fetch(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if self.down:
            raise HTTPError("no route to the issuer")
        return listed(*self.issuers)


@pytest.fixture(scope="module")
def first() -> Issuer:
    return Issuer("first")


@pytest.fixture(scope="module")
def second() -> Issuer:
    return Issuer("second")


async def settle() -> None:
    """Lets a request in the background finish."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_concurrent_calls_share_one_request(first):
    site = FakeUrl(first)
    source = JwksUrl(site.fetch, ManualClock())
    found = await asyncio.gather(*(source.key("first") for _ in range(50)))
    assert all(found)
    assert site.asked == 1


async def test_unknown_keys_cause_requests_at_a_bounded_rate(first, second):
    site, clock = FakeUrl(first), ManualClock()
    source = JwksUrl(site.fetch, clock)
    assert await source.key("first")
    for number in range(100):
        assert await source.key(f"invented-{number}") is None
    assert site.asked == 1
    site.issuers.append(second)
    assert await source.key("second") is None
    clock.advance(RETRY_SECONDS)
    assert await source.key("second")
    assert site.asked == 2


async def test_known_keys_stay_in_use_for_a_bounded_time_while_the_url_is_down(first):
    site, clock = FakeUrl(first), ManualClock()
    source = JwksUrl(site.fetch, clock)
    assert await source.key("first")
    site.down = True
    clock.advance(REFRESH_SECONDS + 1)
    assert await source.key("first")
    await settle()
    assert site.asked == 2
    with pytest.raises(Unavailable):  # it may be a new key of the issuer
        await source.key("another")
    clock.advance(KEEP_SECONDS)
    with pytest.raises(Unavailable, match="its keys could not be fetched"):
        await source.key("first")
    site.down = False
    clock.advance(RETRY_SECONDS)
    assert await source.key("first")


async def test_an_issuer_that_never_answered_is_reported_as_unavailable_instead_of_an_unknown_key(first):
    site = FakeUrl(first)
    site.down = True
    source = JwksUrl(site.fetch, ManualClock())
    for _ in range(10):
        with pytest.raises(Unavailable):
            await source.key("first")
    assert site.asked == 1


async def test_a_withdrawn_key_is_gone_after_the_next_refresh(first, second):
    site, clock = FakeUrl(first, second), ManualClock()
    source = JwksUrl(site.fetch, clock)
    assert await source.key("first")
    site.issuers = [second]
    clock.advance(REFRESH_SECONDS + 1)
    await source.key("first")
    await settle()
    assert await source.key("first") is None
    assert await source.key("second")


async def test_a_caller_that_gives_up_does_not_cancel_the_request_of_others(first):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> bytes:
        begun.set()
        await go_on.wait()
        return listed(first)

    source = JwksUrl(slow, ManualClock())
    impatient, patient = (asyncio.create_task(source.key("first")) for _ in range(2))
    await begun.wait()
    await settle()
    impatient.cancel()
    await settle()
    go_on.set()
    assert await patient


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [1]}', b"[" * 9999]
)
def test_a_document_that_is_not_a_jwks_is_refused(content):
    with pytest.raises(ValueError, match="JWKS"):
        parse(content)


def test_secret_encrypting_and_nameless_keys_are_left_out(first):
    left_out = [
        {"kty": "oct", "kid": "secret", "k": "AAAA"},
        first.jwk | {"kid": "for-encryption", "use": "enc"},
        {name: value for name, value in first.jwk.items() if name != "kid"},
        first.jwk | {"kid": "private", "d": "AQAB"},
        first.jwk | {"kid": "unknown", "alg": "XX99"},
        first.jwk | {"kid": "unsigned", "alg": "none"},
    ]
    assert list(parse(json.dumps({"keys": [*left_out, first.jwk]}).encode())) == ["first"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real https server with the JWKS at /jwks and responses that a fetch must refuse, and its CA."""
    folder, authority = tmp_path_factory.mktemp("site"), Authority()
    body = listed(Issuer())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self.send_response({"/away": 302, "/fault": 500}.get(path, 200))
            self.send_header("Location", "/jwks")
            self.end_headers()
            self.wfile.write(b" " * (jwks.MAX_BYTES + 1) if path == "/huge" else body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.pair().write(folder))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}", authority.write(folder)
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_jwks_is_fetched_over_https_from_a_server_of_the_configured_ca(site):
    url, ca = site
    assert list(parse(await fetcher(f"{url}/jwks", ca)())) == ["first"]


@pytest.mark.parametrize(("path", "message"), [("away", "status 302"), ("fault", "status 500"), ("huge", "more than")])
async def test_redirects_errors_and_endless_responses_are_refused(site, path, message):
    url, ca = site
    with pytest.raises(ValueError, match=message):
        await fetcher(f"{url}/{path}", ca)()


@pytest.mark.parametrize("path", ["fault", "huge"])
async def test_the_secrets_of_the_url_are_not_logged(site, path):
    url, ca = site
    secret = url.replace("://", "://me:secret@") + f"/{path}?key=secret"
    source = JwksUrl(fetcher(secret, ca), SystemClock())
    with captured_log() as log_stream:
        with pytest.raises(Unavailable):
            await source.key("first")
        (event,) = events(log_stream, "auth_jwks_unreachable")
    assert "secret" not in log_stream.getvalue()
    assert "localhost" in event["problem"]


async def test_a_server_of_another_ca_is_refused(site):
    url, _ = site
    with pytest.raises(HTTPError, match="CERTIFICATE_VERIFY_FAILED"):
        await fetcher(f"{url}/jwks", None)()
