"""An STS, and the agent of a node, that give credentials to whoever shows the right token."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

TOKEN = "eyJhbGciOiJSUzI1NiJ9.of-the-service-account.signature"
NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass
class Issuer:
    """What it answers next, and the requests so far."""

    keys: tuple[str, str, str] = ("access", "secret", "session")
    lifetime: timedelta = timedelta(hours=1)
    status: int = 200
    token: str = TOKEN
    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def answer(self, method: str, path: str, authorization: str) -> tuple[int, bytes]:
        query = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
        self.asked.append({"method": method, "authorization": authorization, **query})
        shown = query.get("WebIdentityToken", authorization)
        if self.status != 200 or shown != self.token:
            return self.status if self.status != 200 else 403, b"<Error>no</Error>"
        end = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        return 200, self._of_sts(end) if method == "POST" else self._of_agent(end)

    def _of_sts(self, end: str) -> bytes:
        names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
        keys = "".join(f"<{name}>{escape(key)}</{name}>" for name, key in zip(names, self.keys, strict=True))
        result = f"<Credentials>{keys}<Expiration>{end}</Expiration></Credentials>"
        action = "AssumeRoleWithWebIdentity"
        text = f'<{action}Response xmlns="{NAMESPACE}"><{action}Result>{result}</{action}Result></{action}Response>'
        return text.encode()

    def _of_agent(self, end: str) -> bytes:
        names = ("AccessKeyId", "SecretAccessKey", "Token")
        return json.dumps(dict(zip(names, self.keys, strict=True)) | {"Expiration": end, "AccountId": "1"}).encode()


@contextmanager
def issuing() -> Generator[Issuer]:
    """Serves an issuer on a port of this machine."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answered()

        def do_POST(self) -> None:
            self._answered()

        def _answered(self) -> None:
            status, body = issuer.answer(self.command, self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
