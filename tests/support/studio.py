"""The studio in this process, in front of stubs that answer as a test says."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2

from services.gateway import apis
from services.gateway.asgi import Gateway
from services.gateway.front import Front
from services.gateway.settings import GatewaySettings
from services.gateway.studio.app import Studio
from services.gateway.studio.cookies import PREFIX
from services.gateway.studio.thumbnails import Shrink
from services.infra.auth import Guard
from services.vision.thumbnail import thumbnail
from sightline.v1.model_alias_service_pb2 import ListModelAliasesResponse
from sightline.v1.project_pb2 import Project
from tests.support import gateway
from tests.support.decoders import InlineDecoders
from tests.support.gateway import BASE, Answer, Seen, Stub

SHRINK: Shrink = partial(thumbnail, InlineDecoders())


class Browser(gateway.Front):
    """A browser: keeps cookies, and sends the CSRF token of the page that it saw last."""

    csrf = ""

    async def open(self, path: str, **options: Any) -> httpx2.Response:
        """A page."""
        response = await self("GET", path, **options)
        if found := re.search(r'<meta name="csrf" content="(\w*)">', response.text):
            self.csrf = found[1]
        return response

    async def post(self, path: str, **fields: str) -> httpx2.Response:
        """Sends a form."""
        return await self("POST", path, data={"csrf": self.csrf} | fields)

    async def send(self, path: str, content: bytes) -> httpx2.Response:
        """What a script sends."""
        headers = {"x-csrf-token": self.csrf, "hx-request": "true"}
        return await self("POST", path, content=content, headers=headers)


@asynccontextmanager
async def browser(
    answers: dict[str, Answer],
    *,
    roles: tuple[str, ...] = (),
    guard: Guard | None = None,
    base: str = BASE,
    shrink: Shrink = SHRINK,
    **changes: Any,
) -> AsyncGenerator[Browser]:
    """A browser at the studio, with these answers of the services."""
    settings, seen = GatewaySettings(**changes), list[Seen]()
    usual: dict[str, Answer] = {
        "GetProject": lambda request: Project(project_id="default", roles=roles),
        "ListModelAliases": lambda request: ListModelAliasesResponse(),
    }
    services = gateway.services_of(Stub(seen, usual | answers))
    studio = Studio(services, settings, shrink)
    front = Front(Gateway(services, settings, apis.served()), studio, PREFIX, settings.hosts)
    async with gateway.served(front, settings, guard, base) as client:
        yield Browser(client, seen)
