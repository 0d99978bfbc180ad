"""Projects and their tags."""

import contextlib
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
from starlette.responses import JSONResponse, Response

from services.gateway.custom_vision import iterations
from services.gateway.custom_vision.domains import DETECTION, DOMAINS, domain_of
from services.gateway.custom_vision.errors import BadRequest, Missing
from services.gateway.custom_vision.predictions import check_version, tag_id
from services.gateway.custom_vision.project_files import PREFIX, Json, ProjectFiles
from services.gateway.custom_vision.times import text_of
from services.gateway.exchange import Exchange
from sightline.v1 import dataset_service_pb2 as pb

VERSIONS = ("v3.3", "v3.4-preview")
MAX_NAME = 256
TAG_TYPES = ("Regular", "Negative")
CLASSIFICATIONS = ("Multiclass", "Multilabel")


class Projects:
    """The handlers of domains, projects and tags."""

    def __init__(self, files: ProjectFiles) -> None:
        self._files = files

    async def domains(self, exchange: Exchange) -> Response:
        """All domains."""
        check_version(exchange, VERSIONS)
        return JSONResponse([domain.json() for domain in DOMAINS])

    async def domain(self, exchange: Exchange) -> Response:
        """One domain."""
        check_version(exchange, VERSIONS)
        return JSONResponse(domain_of(exchange.path("domain")).json())

    async def create(self, exchange: Exchange) -> Response:
        """Creates a project."""
        check_version(exchange, VERSIONS)
        await exchange.json()  # options that have no meaning here
        name, kind = _name(exchange, "BadRequestProjectName"), exchange.query("classificationType") or "Multiclass"
        domain = domain_of(exchange.query("domainId"))
        if kind not in CLASSIFICATIONS:
            raise BadRequest("BadRequestProjectUnknownClassification", field="classificationType", problem=kind[:60])
        project, now = str(uuid.uuid4()), text_of(datetime.now(UTC))
        made = {
            "name": name,
            "description": exchange.query("description"),
            "domainId": domain.id,
            "classificationType": None if domain.type == DETECTION else kind,
            "created": now,
            "lastModified": now,
        }
        await self._files.change(exchange.session, project, {"project": made})
        return JSONResponse(_project(project, made))

    async def list_all(self, exchange: Exchange) -> Response:
        """All projects."""
        check_version(exchange, VERSIONS)
        found: list[Json] = []
        for project in await self._files.projects(exchange.session):
            with contextlib.suppress(Missing):  # deleted meanwhile
                state = await self._files.state(exchange.session, project)
                found.append(_project(project, state["project"]))
        return JSONResponse(found)

    async def get(self, exchange: Exchange) -> Response:
        """One project."""
        check_version(exchange, VERSIONS)
        state = await self._files.state(exchange.session, exchange.path("project"))
        return JSONResponse(_project(exchange.path("project"), state["project"]))

    async def update(self, exchange: Exchange) -> Response:
        """Changes a project's name or description."""
        check_version(exchange, VERSIONS)
        project, body = exchange.path("project"), await exchange.json()
        state = await self._files.state(exchange.session, project)
        changed: Json = {key: body.text(key) for key in ("name", "description") if key in body}
        changed["lastModified"] = text_of(datetime.now(UTC))
        await self._files.change(exchange.session, project, {"project": changed})
        return JSONResponse(_project(project, state["project"] | changed))

    async def delete(self, exchange: Exchange) -> Response:
        """Deletes a project with its iterations and images; one that is published keeps it."""
        check_version(exchange, VERSIONS)
        project, session = exchange.path("project"), exchange.session
        await self._files.state(session, project)
        models = [model async for model in iterations.of_project(session, project)]
        if any(model.custom_properties.get(iterations.PUBLISHED) for model in models):
            raise BadRequest(
                "BadRequestIterationIsPublished", field="project", problem="unpublish its iterations first"
            )
        for model in models:
            await iterations.remove(session, model)
        with contextlib.suppress(grpc.aio.AioRpcError):  # there is none before the first training
            await session.call(
                session.services.datasets.DeleteDataset, pb.DeleteDatasetRequest(name=f"datasets/{project}")
            )
        upload = pb.DeleteUploadRequest(name=f"uploads/{PREFIX}{project}")
        await session.call(session.services.datasets.DeleteUpload, upload)
        return Response(status_code=204)

    async def create_tag(self, exchange: Exchange) -> Response:
        """Creates a tag."""
        check_version(exchange, VERSIONS)
        project, name = exchange.path("project"), _name(exchange, "BadRequestTagName")
        state = await self._files.state(exchange.session, project)
        made = tag_id(project, name)
        if made in state.get("tags", {}):
            raise BadRequest("BadRequestTagNameNotUnique", field="name", problem=f"there is a tag {name!r} already")
        kind = exchange.query("type") or TAG_TYPES[0]
        if kind not in TAG_TYPES:
            raise BadRequest("BadRequestTagType", field="type", problem=f"it is one of {', '.join(TAG_TYPES)}")
        tag: Json = {"name": name, "description": exchange.query("description"), "type": kind}
        await self._files.change(exchange.session, project, {"tags": {made: tag}})
        return JSONResponse(_tag(made, tag, 0))

    async def list_tags(self, exchange: Exchange) -> Response:
        """All tags of a project."""
        check_version(exchange, VERSIONS)
        state = await self._files.state(exchange.session, exchange.path("project"))
        counts = _counts(state)
        tags = sorted(state.get("tags", {}).items(), key=lambda item: item[1]["name"])
        return JSONResponse([_tag(one, tag, counts.get(one, 0)) for one, tag in tags])

    async def get_tag(self, exchange: Exchange) -> Response:
        """One tag."""
        check_version(exchange, VERSIONS)
        state = await self._files.state(exchange.session, exchange.path("project"))
        wanted = exchange.path("tag")
        return JSONResponse(_tag(wanted, known_tag(state, wanted), _counts(state).get(wanted, 0)))

    async def delete_tag(self, exchange: Exchange) -> Response:
        """Deletes a tag, also from its images."""
        check_version(exchange, VERSIONS)
        project, gone = exchange.path("project"), exchange.path("tag")
        state = await self._files.state(exchange.session, project)
        known_tag(state, gone)
        await self._files.change(exchange.session, project, {"tags": {gone: None}})
        return Response(status_code=204)


def known_tag(state: Json, wanted: str) -> Json:
    """The project's tag; Missing."""
    found = state.get("tags", {}).get(wanted)
    if found is None:
        raise Missing("NotFoundTag", what="tag", name=wanted)
    return dict(found)


def _name(exchange: Exchange, code: str) -> str:
    name = exchange.query("name").strip()
    if not 0 < len(name) <= MAX_NAME:
        raise BadRequest(code, field="name", problem=f"a name has 1 to {MAX_NAME} characters")
    return name


def _project(project: str, made: Json) -> Json:
    domain = made["domainId"]
    settings: dict[str, Any] = {"domainId": domain, "targetExportPlatforms": [], "useNegativeSet": False}
    if made.get("classificationType"):
        settings["classificationType"] = made["classificationType"]
    shown = {key: made.get(key, "") for key in ("name", "description", "created", "lastModified")}
    return {"id": project, **shown, "settings": settings, "drModeEnabled": False, "status": "Succeeded"}


def _tag(tag: str, made: Json, count: int) -> Json:
    return {"id": tag, **made, "imageCount": count}


def _counts(state: Json) -> dict[str, int]:
    """Images by tag."""
    counts: dict[str, int] = {}
    for image in state.get("images", {}).values():
        for tag in {*image.get("tags", {}), *(region["tagId"] for region in image.get("regions", {}).values())}:
            counts[tag] = counts.get(tag, 0) + 1
    return counts
