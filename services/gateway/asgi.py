"""The gateway as an ASGI application: its APIs side by side, each with its own way to report failures."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.gateway import openapi
from services.gateway.auth import metadata_of
from services.gateway.errors import Problem, no_method, no_path, problem_of
from services.gateway.operations import Api, Routing
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Services
from services.kit.errors import SightlineError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_SLASHES = re.compile("//+")


def routed(routes: Sequence[Route], handlers: Mapping[Any, Any]) -> Starlette:
    """An application of these routes alone: what they raise and no handler knows is raised, for `infra` to answer."""
    made = Starlette(routes=routes)
    made.router.redirect_slashes = False
    made.middleware_stack = ExceptionMiddleware(made.router, handlers)
    return made


class Gateway:
    """Answers requests; `infra` counts and limits them. Several slashes in a path are one."""

    def __init__(self, services: Services, settings: GatewaySettings, apis: Sequence[Api]) -> None:
        self._apis = apis
        routing = Routing(services, settings)
        routes = [route for api in apis for route in routing.routes(api)]
        document = openapi.document(apis)

        async def show_document(request: Request) -> Response:
            request.state.route = openapi.PATH
            return JSONResponse(document)

        handlers = {404: self._no_path, 405: self._no_method}
        self._starlette = routed([*routes, Route(openapi.PATH, show_document)], handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _SLASHES.sub("/", scope["path"])
        await self._starlette({**scope, "path": path}, receive, send)  # pyright: ignore[reportArgumentType] - a scope of HTTP

    def metadata(self, scope: Scope) -> Iterable[tuple[str, str]]:
        """The request's token and project, as metadata of an rpc."""
        return metadata_of(Headers(scope=scope))

    def is_open(self, scope: Scope) -> bool:
        """Whether the request needs no token."""
        return scope["path"] == openapi.PATH

    async def refuse(self, scope: Scope, receive: Receive, send: Send, error: SightlineError) -> None:
        """Answers with the error, in the form of the API that the path belongs to."""
        await self._rendered(scope["path"], problem_of(error))(scope, receive, send)  # pyright: ignore[reportArgumentType] - the same

    async def _no_path(self, request: Request, _error: HTTPException) -> Response:
        return self._rendered(request.url.path, no_path(request.url.path))

    async def _no_method(self, request: Request, error: HTTPException) -> Response:
        allowed = (error.headers or {}).get("Allow", "")
        response = self._rendered(request.url.path, no_method(request.url.path, request.method, allowed))
        response.headers["allow"] = allowed
        return response

    def _rendered(self, path: str, problem: Problem) -> Response:
        path = _SLASHES.sub("/", path)
        api = next((api for api in self._apis if path.startswith(api.prefix)), self._apis[0])
        return api.render(problem)
