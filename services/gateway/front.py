"""The gateway's APIs and the studio as one application: each answers, and refuses, below its own path."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from services.kit.errors import SightlineError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Side(Protocol):
    """An application with its own way to find tokens and to report failures."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def metadata(self, scope: Scope) -> Iterable[tuple[str, str]]: ...

    def is_open(self, scope: Scope) -> bool: ...

    async def refuse(self, scope: Scope, receive: Receive, send: Send, error: SightlineError) -> None: ...


class Front:
    """Passes what is below `prefix` to the pages, everything else to the APIs.

    Law: cookies, which browsers send by themselves, count for the pages only.
    """

    def __init__(self, apis: Side, pages: Side, prefix: str) -> None:
        self._apis, self._pages, self._prefix = apis, pages, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._side(scope)(scope, receive, send)

    def metadata(self, scope: Scope) -> Iterable[tuple[str, str]]:
        """The request's token and project."""
        return self._side(scope).metadata(scope)

    def is_open(self, scope: Scope) -> bool:
        """Whether the request needs no token."""
        return self._side(scope).is_open(scope)

    async def refuse(self, scope: Scope, receive: Receive, send: Send, error: SightlineError) -> None:
        """Answers with the error."""
        await self._side(scope).refuse(scope, receive, send, error)

    def _side(self, scope: Scope) -> Side:
        path = scope["path"]
        return self._pages if path == self._prefix or path.startswith(self._prefix + "/") else self._apis
