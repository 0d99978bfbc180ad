"""The studio as an ASGI application: its pages, its files, and what it says when something fails."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

import grpc
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.gateway.asgi import Receive, Scope, Send, routed
from services.gateway.errors import Problem, Refusal, no_method, problem_of
from services.gateway.settings import GatewaySettings
from services.gateway.studio import (
    admin,
    aliases,
    charts,
    compare,
    datasets,
    drops,
    exports,
    images,
    labels,
    mistakes,
    models,
    results,
    show,
    sign_in,
    start,
    training,
    trying,
)
from services.gateway.studio.assets import Assets
from services.gateway.studio.cookies import PREFIX, Cookies, forget
from services.gateway.studio.text import FILE, Text
from services.gateway.studio.thumbnails import Shrink, Thumbnails
from services.gateway.studio.visit import Site, Visit
from services.gateway.upstream import REQUEST_ID, Services, Session
from services.kit import log
from services.kit.errors import SightlineError

Page = Callable[[Visit], Awaitable[Response]]

SIGN_IN, STATIC = f"{PREFIX}/sign-in", f"{PREFIX}/static/"
OPEN = (SIGN_IN, f"{PREFIX}/sign-out")
CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "same-origin",
}
PAGES: tuple[tuple[str, str, Page], ...] = (
    *(("GET", path, page) for path, page in {"": models.home, "/": models.home, "/sign-in": sign_in.show}.items()),
    ("POST", "/sign-in", sign_in.sign_in),
    ("POST", "/sign-out", sign_in.sign_out),
    ("GET", "/models", models.list_all),
    ("GET", "/models/{model}", results.show),
    ("GET", "/models/{model}/mistakes", mistakes.show),
    ("GET", "/models/{model}/compare", compare.show),
    ("POST", "/models/{model}/measure", compare.measure),
    ("POST", "/models/{model}/export", exports.download),
    ("POST", "/models/{model}/export/progress", exports.progress),
    ("POST", "/models/{model}/cancel", models.cancel),
    ("POST", "/models/{model}/aliases", aliases.choose),
    ("POST", "/models/{model}/aliases/rollback", aliases.roll_back),
    ("POST", "/models/{model}/aliases/delete", aliases.delete),
    ("POST", "/models/{model}/delete", models.delete),
    ("GET", "/models/{model}/progress", training.progress),
    ("GET", "/models/{model}/try", trying.show),
    ("POST", "/models/{model}/analyze", trying.analyze),
    ("POST", "/models/{model}/explain", trying.explain),
    ("GET", "/models/{model}/suggestions", trying.suggestions),
    ("GET", "/datasets", datasets.list_all),
    ("GET", "/datasets/{dataset}", datasets.show),
    ("GET", "/datasets/{dataset}/progress", datasets.progress),
    ("GET", "/datasets/{dataset}/findings", datasets.findings),
    ("GET", "/datasets/{dataset}/images", images.browse),
    ("GET", "/datasets/{dataset}/images/{image}", images.image),
    ("GET", "/datasets/{dataset}/thumbnails/{image}", images.thumbnail),
    ("GET", "/datasets/{dataset}/labels", labels.show),
    ("GET", "/datasets/{dataset}/records", labels.records),
    ("GET", "/datasets/{dataset}/annotations", labels.annotations),
    ("POST", "/datasets/{dataset}/versions", labels.save),
    ("POST", "/datasets/{dataset}/delete", datasets.delete),
    ("GET", "/datasets/{dataset}/train", start.train_form),
    ("POST", "/datasets/{dataset}/estimate", start.estimate),
    ("POST", "/datasets/{dataset}/train", start.train),
    ("GET", "/new", start.new),
    ("POST", "/drops", drops.understand),
    ("POST", "/uploads/{upload}/file", start.receive),
    ("POST", "/datasets", start.register),
    ("GET", "/admin", admin.show),
)


class Studio:
    """Answers requests below `/studio`."""

    def __init__(self, services: Services, settings: GatewaySettings, shrink: Shrink) -> None:
        self._services, self._assets = services, Assets()
        thumbnails = Thumbnails(shrink, settings.thumbnail_cache_bytes)
        self._site = Site(_templates(self._assets, Text()), Text(), settings, thumbnails)
        paths: dict[str, dict[str, Page]] = {}
        for method, path, page in PAGES:
            paths.setdefault(path, {})[method] = page
        routes = [Route(PREFIX + path, self._endpoint(path, by), methods=[*by]) for path, by in paths.items()]
        routes.append(Route(STATIC + "{name}", self._static))
        self._starlette = routed(routes, {404: self._no_page, 405: self._no_method})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._starlette(scope, receive, _with_headers(send))  # pyright: ignore[reportArgumentType] - a scope of HTTP

    def metadata(self, scope: Scope) -> Iterable[tuple[str, str]]:
        """The token and project of the cookies, as metadata of an rpc; none for pages that need none."""
        headers = Headers(scope=scope)
        return () if self.is_open(scope) else Cookies.of(headers).metadata(headers)

    def is_open(self, scope: Scope) -> bool:
        """Whether the request needs no token."""
        return scope["path"] in OPEN or scope["path"].startswith(STATIC)

    async def refuse(self, scope: Scope, receive: Receive, send: Send, error: SightlineError) -> None:
        """Answers with a page about the error."""
        response = self._failed(self._visit(Request(scope)), error)
        await response(scope, receive, _with_headers(send))  # pyright: ignore[reportArgumentType] - a scope of HTTP

    def _visit(self, request: Request) -> Visit:
        cookies = Cookies.of(request.headers)
        metadata = (*cookies.metadata(request.headers), (REQUEST_ID, log.request_id.get()))
        return Visit(request, Session(self._services, metadata), self._site, cookies)

    def _endpoint(self, path: str, pages: Mapping[str, Page]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            request.state.route = PREFIX + path
            visit = self._visit(request)
            method = "GET" if request.method == "HEAD" else request.method
            try:
                if method != "GET":
                    await visit.guard_change()
                return await pages[method](visit)
            except (Refusal, SightlineError, grpc.aio.AioRpcError) as error:
                return self._failed(visit, error)

        return answer

    async def _static(self, request: Request) -> Response:
        request.state.route = STATIC + "{name}"
        try:
            return self._assets.response(request.path_params["name"], request.query_params.get("v", ""))
        except Refusal as error:
            return self._failed(self._visit(request), error)

    async def _no_page(self, request: Request, _error: HTTPException) -> Response:
        return self._shown(self._visit(request), Problem(404, "NotFound", self._site.text("error.no_page")))

    async def _no_method(self, request: Request, error: HTTPException) -> Response:
        allowed = (error.headers or {}).get("Allow", "")
        response = self._shown(self._visit(request), no_method(request.url.path, request.method, allowed))
        response.headers["allow"] = allowed
        return response

    def _failed(self, visit: Visit, error: Refusal | SightlineError | grpc.aio.AioRpcError) -> Response:
        problem = problem_of(error)
        return _to_sign_in(visit) if problem.status == 401 else self._shown(visit, problem)

    def _shown(self, visit: Visit, problem: Problem) -> Response:
        visit.request.state.reason = problem.reason
        template = "problem.html" if visit.is_fragment else "error.html"
        response = visit.bare_page(template, problem.status, problem=problem, request_id=log.request_id.get())
        response.headers.update(problem.headers)
        return response


def _to_sign_in(visit: Visit) -> Response:
    """Sends the browser to the page for signing in, from which it returns here."""
    visit.request.state.reason = "Unauthenticated"
    url = f"{SIGN_IN}?ended=1" if visit.cookies.token else SIGN_IN
    if visit.request.method == "GET" and not visit.is_fragment:
        query = visit.request.url.query
        following = visit.here + (f"?{query}" if query else "")
        url += ("&" if "?" in url else "?") + "next=" + quote(following, safe="")
        response: Response = RedirectResponse(url, 303)
    else:
        response = Response(status_code=401, headers={"hx-redirect": url, "connection": "close"})
    forget(response)
    return response


def _with_headers(send: Send) -> Send:
    """Adds the headers that every response has; nothing but files is kept by browsers unless it says so."""

    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            if not any(name == b"cache-control" for name, _ in message.get("headers", ())):
                headers.append((b"cache-control", b"no-store"))
            message = message | {"headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sending


def _id(name: str) -> str:
    """The id in a resource's name, for paths."""
    return quote(show.last(name), safe="")


def _templates(assets: Assets, text: Text) -> Environment:
    loader = FileSystemLoader(FILE.parent / "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    known: dict[str, Any] = {"t": text, "asset": assets.url, "root": PREFIX, "mistakes_url": charts.mistakes_url}
    made.globals.update(known)
    for function in (show.last, show.percent, show.points, show.count, show.size, show.span, show.moment, show.iso):
        made.filters[function.__name__] = function
    made.filters["id"] = _id
    return made
