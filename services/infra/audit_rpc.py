"""AuditService: the audit for admins."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from services.infra.audit import Entry
from services.infra.audit_log import AuditLog, Filters
from services.infra.server import Service
from services.kit import callers, paging
from services.kit.callers import ALL_PROJECTS
from services.kit.errors import AuditNotStored, InvalidPageToken, InvalidRequest, ProjectDenied
from sightline.v1 import audit_service_pb2 as pb
from sightline.v1.audit_service_pb2_grpc import AuditServiceServicer, add_AuditServiceServicer_to_server

LATEST_FIRST = "time desc"
ORDERS = "time", LATEST_FIRST


class Servicer(AuditServiceServicer):
    """Answers from the log; without one, AuditNotStored."""

    def __init__(self, log: AuditLog | None) -> None:
        self._log = log

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Any) -> pb.ListAuditEventsResponse:
        if self._log is None:
            raise AuditNotStored(setting="SIGHTLINE_AUDIT")
        size, scope, filters = paging.check_page_size(request.page_size), _scope(request), _filters(request)
        token = paging.decode_token(scope, request.page_token)
        if not token.isdecimal() and token:
            raise InvalidPageToken(token=request.page_token)
        _check_project(request.project)
        if request.order_by not in ("", *ORDERS):
            raise InvalidRequest(field="order_by", problem=f"it must be one of: {', '.join(ORDERS)}")
        latest = request.order_by == LATEST_FIRST
        entries, position = await self._log.page(filters, _may_see, size, int(token or 0), latest=latest)
        return pb.ListAuditEventsResponse(
            events=map(_event, entries),
            next_page_token=paging.encode_token(scope, str(position)) if position else "",
        )


def service(log: AuditLog | None) -> Service:
    """The service, for a server."""
    descriptor = pb.DESCRIPTOR.services_by_name["AuditService"]
    return Service(descriptor, add_AuditServiceServicer_to_server, Servicer(log))


def _may_see(entry: Entry) -> bool:
    """Entries of the token's projects; those of no project are for tokens of all."""
    caller = callers.current.get()
    return caller is None or ALL_PROJECTS in caller.projects or entry.project in caller.projects


def _check_project(project: str) -> None:
    caller = callers.current.get()
    if project and caller and not {project, ALL_PROJECTS} & caller.projects:
        raise ProjectDenied(caller=caller.subject, problem=f"is not valid for the project {project}")


def _scope(request: pb.ListAuditEventsRequest) -> str:
    """What a page token belongs to: the list, with its filters."""
    filters = pb.ListAuditEventsRequest()
    filters.CopyFrom(request)
    filters.ClearField("page_size")
    filters.ClearField("page_token")
    return f"auditEvents/{hashlib.sha256(filters.SerializeToString(deterministic=True)).hexdigest()}"


def _filters(request: pb.ListAuditEventsRequest) -> Filters:
    return Filters(
        start=_time(request.start_time, "start_time") if request.HasField("start_time") else None,
        end=_time(request.end_time, "end_time") if request.HasField("end_time") else None,
        subject=request.subject,
        project=request.project,
        rpc=request.rpc,
        resource=request.resource,
        codes=tuple(request.codes),
    )


def _time(given: Timestamp, field: str) -> datetime:
    try:
        return given.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(field=field, problem="it must be a time between the years 1 and 9999") from None


def _event(entry: Entry) -> pb.AuditEvent:
    names = ("service", "issuer", "subject", "project", "rpc", "resource", "code", "reason", "request_id", "peer")
    event = pb.AuditEvent(**{name: getattr(entry, name) for name in names})
    event.time.FromDatetime(datetime.fromisoformat(entry.time))
    return event
