"""What an operator looks at: models in memory, the use of projects, and the audit."""

from typing import Any

import grpc
from starlette.responses import Response

from services.gateway.errors import problem_of
from services.gateway.studio.visit import Visit
from services.kit.roles import Role
from sightline.v1.audit_service_pb2 import ListAuditEventsRequest
from sightline.v1.prediction_service_pb2 import ListLoadedModelsRequest
from sightline.v1.project_service_pb2 import ListProjectsRequest

PAGE = 50


async def show(visit: Visit) -> Response:
    """The page; a part that the caller may not see, or whose service does not respond, says so."""
    services, session = visit.session.services, visit.session
    loaded = await _part(session.call(services.predictions.ListLoadedModels, ListLoadedModelsRequest(page_size=PAGE)))
    projects = await _part(session.call(services.projects.ListProjects, ListProjectsRequest(page_size=PAGE)))
    events = None
    if await visit.may(Role.ADMIN):
        request = ListAuditEventsRequest(page_size=PAGE, page_token=visit.query("page"), order_by="time desc")
        events = await _part(session.call(services.audit.ListAuditEvents, request))
    return await visit.page("admin.html", loaded=loaded, projects=projects, audit=events, first=not visit.query("page"))


async def _part(call: Any) -> dict[str, Any]:
    """The answer, or why there is none."""
    try:
        return {"found": await call, "problem": None}
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return {"found": None, "problem": problem_of(error)}
