"""A request for a page: its caller, its form, and how its page is made."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

import grpc
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.responses import RedirectResponse as Redirect

from services.gateway.errors import Problem, Refusal
from services.gateway.exchange import MAX_INT64, Body, whole_number
from services.gateway.settings import GatewaySettings
from services.gateway.studio.cookies import PREFIX, Cookies, is_foreign, keep, new_secret
from services.gateway.studio.text import Text
from services.gateway.studio.thumbnails import Thumbnails
from services.gateway.upstream import Session
from services.kit.errors import InvalidRequest
from services.kit.roles import Role, may
from sightline.v1.project_pb2 import Project
from sightline.v1.project_service_pb2 import GetProjectRequest

FORM_BYTES = 64 * 1024
WHO_SECONDS = 2.0  # how long a page waits to learn the caller's roles: it is of use without them
CSRF_HEADER = "x-csrf-token"


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages have in common."""

    templates: Environment
    text: Text
    settings: GatewaySettings
    thumbnails: Thumbnails
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))  # of exports, which takes memory


@dataclass(slots=True)
class Visit:
    """One request."""

    request: Request
    session: Session
    site: Site
    cookies: Cookies
    _form: dict[str, str] | None = None
    _project: Project | None = None
    secret: str = field(default_factory=new_secret)

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        """A parameter."""
        return self.request.query_params.get(name, default)

    def number(self, name: str, default: int = 0, most: int = MAX_INT64) -> int:
        """A parameter that is a whole number from 0 on; InvalidRequest."""
        text = self.query(name)
        number = whole_number(text, most) if text else default
        if number is None:
            raise InvalidRequest(field=name, problem=f"it must be a whole number, at most {most}")
        return number

    @property
    def secure(self) -> bool:
        """Whether the browser uses TLS; a proxy that ends it says so."""
        headers, scheme = self.request.headers, self.request.scope.get("scheme", "http")
        return "https" in (scheme, headers.get("x-forwarded-proto", ""))

    @property
    def is_fragment(self) -> bool:
        """Whether htmx or a script asks for part of a page."""
        return "hx-request" in self.request.headers

    async def bytes(self, limit: int) -> bytes:
        """The body."""
        body: Body = self.request.state.body
        return await body.read(limit)

    async def hold(self, size: int) -> None:
        """Returns once there is room for so many bytes of an answer, until the request ends; Overloaded, Throttled."""
        body: Body = self.request.state.body
        await body.hold(size)

    async def form(self) -> dict[str, str]:
        """The fields of a form."""
        if self._form is None:
            text = (await self.bytes(FORM_BYTES)).decode(errors="replace")
            self._form = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=200))
        return self._form

    async def guard_change(self) -> None:
        """Refusal unless a page of the studio asked for this."""
        sent = self.request.headers.get(CSRF_HEADER) or (await self.form()).get("csrf", "")
        if is_foreign(self.request.headers, self.cookies, sent):
            raise Refusal(Problem(403, "ForeignRequest", self.site.text("error.foreign")))

    async def project(self) -> Project:
        """The project, and the caller's roles in it; an empty one while the trainer does not respond."""
        if self._project is None:
            method = self.session.services.projects.GetProject
            try:
                async with asyncio.timeout(WHO_SECONDS):
                    self._project = await self.session.call(method, GetProjectRequest())
            except TimeoutError:
                self._project = Project()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise
                self._project = Project()
        return self._project

    async def may(self, role: Role) -> bool:
        """Whether the caller has the role. The services decide; this only hides what they would refuse."""
        held = [Role(name) for name in (await self.project()).roles if name in set(Role)]
        return not held or may(held, role)

    async def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """A page, or the part of it that was asked for."""
        known = await self.project()
        context |= {"project": known, "may": {role: await self.may(role) for role in Role}}
        return self.bare_page(template, status, **context)

    def bare_page(self, template: str, status: int = 200, **context: Any) -> Response:
        """A page that asks no service who the caller is."""
        secret = self.cookies.secret or self.secret
        cookies = Cookies(self.cookies.token, self.cookies.project, secret)
        everyone = {"project": Project(), "may": dict.fromkeys(Role, False)}
        context = everyone | {"signed_in": bool(cookies.token), "csrf": cookies.csrf, "here": self.here} | context
        text = self.site.templates.get_template(template).render(context | {"fragment": self.is_fragment})
        response = HTMLResponse(text, status)
        if not self.cookies.secret:
            keep(response, "sightline-secret", secret, secure=self.secure)
        return response

    @property
    def here(self) -> str:
        """The path."""
        return self.request.url.path

    def to(self, *parts: str) -> Response:
        """Sends the browser to another page after a change."""
        url = "/".join((PREFIX, *(quote(part, safe="") for part in parts)))
        return Response(status_code=204, headers={"hx-redirect": url}) if self.is_fragment else Redirect(url, 303)
