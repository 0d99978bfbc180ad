"""The gateway's APIs and the studio as one application: each answers, and refuses, below its own path."""

from collections.abc import Collection, Iterable
from typing import Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from services.gateway.asgi import Receive, Scope, Send
from services.gateway.auth import AUTHORIZATION
from services.gateway.origins import is_of_another_site
from services.kit.errors import SightlineError

MISDIRECTED = PlainTextResponse("This host is not in SIGHTLINE_ALLOWED_HOSTS of the gateway.\n", 421)
FOREIGN = PlainTextResponse("A page of another site asked for this; without a token, it may only read.\n", 403)
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing


class Side(Protocol):
    """An application with its own way to find tokens and to report failures."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def metadata(self, scope: Scope) -> Iterable[tuple[str, str]]: ...

    def is_open(self, scope: Scope) -> bool: ...

    async def refuse(self, scope: Scope, receive: Receive, send: Send, error: SightlineError) -> None: ...


class Front:
    """Passes what is below `prefix` to the pages, everything else to the APIs.

    Law: cookies, which browsers send by themselves, count for the pages only. With `hosts`, a request for any other
    host is refused: another site could let its name stand for this address, and so reach it from a visitor's browser.
    Without a token, a page of another site changes nothing either; one that has a token was let in by whoever gave it,
    as browsers send headers with tokens to no other site by themselves.
    """

    def __init__(self, apis: Side, pages: Side, prefix: str, hosts: Collection[str] = ()) -> None:
        self._apis, self._pages, self._prefix, self._hosts = apis, pages, prefix, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._hosts and _host(scope) not in self._hosts:
            answer = MISDIRECTED
        else:
            answer = FOREIGN if self._is_foreign(scope) else self._side(scope)
        await answer(scope, receive, send)  # pyright: ignore[reportArgumentType] - a scope of HTTP

    def metadata(self, scope: Scope) -> Iterable[tuple[str, str]]:
        """The request's token and project."""
        return self._side(scope).metadata(scope)

    def is_open(self, scope: Scope) -> bool:
        """Whether the request needs no token."""
        return self._side(scope).is_open(scope)

    async def refuse(self, scope: Scope, receive: Receive, send: Send, error: SightlineError) -> None:
        """Answers with the error."""
        await self._side(scope).refuse(scope, receive, send, error)

    def _is_foreign(self, scope: Scope) -> bool:
        """Whether a browser sends a change for a page of another site to the APIs; the pages guard their own."""
        if scope["method"] in SAFE or self._side(scope) is self._pages or AUTHORIZATION in dict(self.metadata(scope)):
            return False
        return is_of_another_site(Headers(scope=scope))

    def _side(self, scope: Scope) -> Side:
        path = scope["path"]
        return self._pages if path == self._prefix or path.startswith(self._prefix + "/") else self._apis


def _host(scope: Scope) -> str:
    """The name that the request is for, without its port; empty if it is malformed."""
    try:
        return urlsplit("//" + Headers(scope=scope).get("host", "")).hostname or ""
    except ValueError:
        return ""
