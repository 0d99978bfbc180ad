"""`client.audit`: who asked for what, and what came of it; for admins."""

from collections.abc import Iterable
from datetime import datetime

from sightline.client.calls import AsyncCalls, Calls
from sightline.client.results.audit import AuditEvent
from sightline.v1 import audit_service_pb2 as service


class Audit:
    """The audit of a `Client`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def list(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        subject: str = "",
        project: str = "",
        rpc: str = "",
        resource: str = "",
        codes: Iterable[str] = (),
    ) -> tuple[AuditEvent, ...]:
        """The calls that match all of these, in the order in which they were stored; AuditNotStored.

        `start` and `end` are aware times, `subject` is a subject or `issuer:subject`, `resource` includes what is below
        it, and `codes` are gRPC status codes such as `PERMISSION_DENIED`.
        """
        request = service.ListAuditEventsRequest(
            subject=subject, project=project, rpc=rpc, resource=resource, codes=codes
        )
        _between(request, start, end)
        response = self._calls.pages(self._calls.stubs.audit.ListAuditEvents, request)
        return tuple(map(AuditEvent.of, response.events))


class AsyncAudit:
    """The audit of an `AsyncClient`, with the method of `Audit`."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def list(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        subject: str = "",
        project: str = "",
        rpc: str = "",
        resource: str = "",
        codes: Iterable[str] = (),
    ) -> tuple[AuditEvent, ...]:
        """As `Audit.list`."""
        request = service.ListAuditEventsRequest(
            subject=subject, project=project, rpc=rpc, resource=resource, codes=codes
        )
        _between(request, start, end)
        response = await self._calls.pages(self._calls.stubs.audit.ListAuditEvents, request)
        return tuple(map(AuditEvent.of, response.events))


def _between(request: service.ListAuditEventsRequest, start: datetime | None, end: datetime | None) -> None:
    if start:
        request.start_time.FromDatetime(start)
    if end:
        request.end_time.FromDatetime(end)
