"""Projects."""

import contextlib
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from services.gateway.custom_vision import iterations
from services.gateway.custom_vision.domains import DOMAINS, Domain, domain_of
from services.gateway.custom_vision.errors import BadRequest, Missing, check_name
from services.gateway.custom_vision.project_files import PREFIX, Json, ProjectFiles, TooLarge
from services.gateway.custom_vision.times import text_of
from services.gateway.custom_vision.versions import check_version
from services.gateway.exchange import Exchange
from services.gateway.upstream import if_found
from services.kit.log import Log
from sightline.v1 import dataset_service_pb2 as pb

_log = Log(__name__)

MULTICLASS, MULTILABEL = "Multiclass", "Multilabel"


class Projects:
    """The handlers of domains and projects."""

    def __init__(self, files: ProjectFiles) -> None:
        self._files = files

    async def domains(self, exchange: Exchange) -> Response:
        """All domains."""
        check_version(exchange)
        return JSONResponse([domain.json() for domain in DOMAINS])

    async def domain(self, exchange: Exchange) -> Response:
        """One domain."""
        check_version(exchange)
        return JSONResponse(domain_of(exchange.path("domain")).json())

    async def create(self, exchange: Exchange) -> Response:
        """Creates a project."""
        check_version(exchange)
        await exchange.json()  # options that have no meaning here
        name = check_name(exchange.query("name").strip(), "BadRequestProjectName")
        domain = domain_of(exchange.query("domainId"))
        kind = _checked_kind(exchange.query("classificationType"), domain)
        project, now = str(uuid.uuid4()), text_of(datetime.now(UTC))
        made = {
            "name": name,
            "description": exchange.query("description"),
            "domainId": domain.id,
            "classificationType": kind,
            "created": now,
            "lastModified": now,
        }
        await self._files.change(exchange.session, project, {"project": made})
        return JSONResponse(_project(project, made))

    async def list_all(self, exchange: Exchange) -> Response:
        """All projects, without those that are too large to be read."""
        check_version(exchange)
        found: list[Json] = []
        for project in await self._files.projects(exchange.session):
            try:
                state = await self._files.state(exchange.session, project)
            except Missing:
                continue  # deleted meanwhile
            except TooLarge as error:
                _log.warning("project_left_out", project=project, problem=str(error))
                continue
            found.append(_project(project, state["project"]))
        return JSONResponse(found)

    async def get(self, exchange: Exchange) -> Response:
        """One project."""
        check_version(exchange)
        state = await self._files.state(exchange.session, exchange.path("project"))
        return JSONResponse(_project(exchange.path("project"), state["project"]))

    async def update(self, exchange: Exchange) -> Response:
        """Changes a project's name, description or domain; BadRequest for a domain of another type."""
        check_version(exchange)
        project, body = exchange.path("project"), await exchange.json()
        made = (await self._files.state(exchange.session, project))["project"]
        changed: Json = {key: body.text(key) for key in ("name", "description") if key in body}
        if "name" in changed:
            changed["name"] = check_name(changed["name"].strip(), "BadRequestProjectName")
        if settings := body.object("settings"):
            domain = domain_of(settings.text("domainId") or made["domainId"])
            if domain.type != domain_of(made["domainId"]).type:
                problem = f"the project is for {domain_of(made['domainId']).type}; create another one"
                raise BadRequest("BadRequestProjectUnsupportedDomainTypeChange", field="domainId", problem=problem)
            _checked_kind(settings.text("classificationType"), domain)
            changed["domainId"] = domain.id
        changed["lastModified"] = text_of(datetime.now(UTC))
        await self._files.change(exchange.session, project, {"project": changed})
        return JSONResponse(_project(project, made | changed))

    async def delete(self, exchange: Exchange) -> Response:
        """Deletes a project with its iterations and images; one that is published keeps it."""
        check_version(exchange)
        project, session = exchange.path("project"), exchange.session
        with contextlib.suppress(TooLarge):
            await self._files.state(session, project)
        models = [model async for model in iterations.of_project(session, project)]
        if any(model.custom_properties.get(iterations.PUBLISHED) for model in models):
            raise BadRequest(
                "BadRequestIterationIsPublished", field="project", problem="unpublish its iterations first"
            )
        for model in models:
            await iterations.remove(session, model)
        with if_found():  # there is none before the first training
            await session.call(
                session.services.datasets.DeleteDataset, pb.DeleteDatasetRequest(name=f"datasets/{project}")
            )
        upload = pb.DeleteUploadRequest(name=f"uploads/{PREFIX}{project}")
        await session.call(session.services.datasets.DeleteUpload, upload)
        return Response(status_code=204)


def _checked_kind(kind: str, domain: Domain) -> str | None:
    """The classification type of a project, none for detectors; BadRequest for one that cannot be trained here."""
    if domain.detects or kind in ("", MULTICLASS):
        return None if domain.detects else MULTICLASS
    if kind == MULTILABEL:
        problem = (
            "classifiers learn one tag for each image here; create the project as Multiclass, or as one for object "
            "detection if images show several things"
        )
        raise BadRequest("BadRequestNotSupported", field="classificationType", problem=problem)
    problem = f"{kind[:60]!r} is not {MULTICLASS}"
    raise BadRequest("BadRequestProjectUnknownClassification", field="classificationType", problem=problem)


def _project(project: str, made: Json) -> Json:
    domain = made["domainId"]
    settings: dict[str, Any] = {"domainId": domain, "targetExportPlatforms": [], "useNegativeSet": False}
    if made.get("classificationType"):
        settings["classificationType"] = made["classificationType"]
    shown = {key: made.get(key, "") for key in ("name", "description", "created", "lastModified")}
    return {"id": project, **shown, "settings": settings, "drModeEnabled": False, "status": "Succeeded"}
