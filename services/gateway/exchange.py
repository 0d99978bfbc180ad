"""A request as the handlers of an API see it: its parameters, its body, and the services on its caller's behalf."""

import asyncio
import re
from typing import Protocol

from starlette.requests import Request

from services.gateway.fields import Fields, read_json
from services.gateway.media import Media, medium
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Session
from services.kit.errors import InvalidRequest
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest

SPARE_BYTES = 4096  # for the frame of a form around an image
MAX_INT32, MAX_INT64 = 2**31 - 1, 2**63 - 1
_DIGITS = re.compile("[0-9]{1,19}")


def whole_number(text: str, most: int = MAX_INT64, *, least: int = 0) -> int | None:
    """The number that a text of a few ASCII digits is; None if it is none, or out of range."""
    number = int(text) if _DIGITS.fullmatch(text) else -1
    return number if least <= number <= most else None


class Body(Protocol):
    """What the server has of the request's body."""

    async def read(self, limit: int) -> bytes:
        """The body, if it has at most so many bytes; a SightlineError otherwise."""
        ...

    async def hold(self, size: int) -> None:
        """Returns once there is room for so many bytes besides the body, until the request ends; a SightlineError."""
        ...


class Exchange:
    """One request."""

    def __init__(self, request: Request, session: Session, settings: GatewaySettings) -> None:
        self.request, self.session, self.settings = request, session, settings
        self._query: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            self._query.setdefault(name.lower(), []).append(value)

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        """A parameter, whose name is found in any case."""
        return self._query.get(name.lower(), [default])[-1]

    def queries(self, name: str) -> list[str]:
        """Every value of a parameter."""
        return self._query.get(name.lower(), [])

    async def bytes(self, limit: int) -> bytes:
        """The body; InvalidRequest if it is compressed, as its size would then say nothing."""
        encoding = self.request.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            problem = f"{encoding[:40]!r} is not accepted; send the body uncompressed"
            raise InvalidRequest(field="content-encoding", problem=problem)
        body: Body = self.request.state.body
        return await body.read(limit)

    async def json(self, limit: int = 0) -> Fields:
        """The body's JSON object; `{}` if there is no body."""
        data = await self.bytes(limit or self.settings.max_json_bytes)
        return await asyncio.to_thread(read_json, data) if data.strip() else Fields({})

    async def media(self, limit: int) -> Media:
        """The body, as what its content type says that it is, or else what it looks like."""
        content_type, data = self.request.headers.get("content-type", ""), await self.bytes(limit)
        return await asyncio.to_thread(medium, content_type, data)

    async def image_request(self) -> AnalyzeImageRequest:
        """A request to predict the image in the body: its bytes, or where in the store it is."""
        media = await self.media(self.settings.max_prediction_image_bytes + SPARE_BYTES)
        if media.json is None:
            return AnalyzeImageRequest(image=media.image)
        return AnalyzeImageRequest(uri=self.settings.blob_uris.to_store(media.json.required_text("url")))
