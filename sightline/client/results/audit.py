"""The audit: who asked for what, and what came of it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from sightline.client.results.convert import moment
from sightline.v1 import audit_service_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One call."""

    time: datetime | None  # of its end
    service: str  # dataset, trainer or predictor
    issuer: str  # of the token; empty without a valid one, as the next two
    subject: str
    project: str
    rpc: str  # `DatasetService/DeleteDataset`
    resource: str  # what it was about, as requested
    code: str  # OK, PERMISSION_DENIED, ...
    reason: str  # of an error
    request_id: str
    peer: str  # where the call came from
    message: audit_service_pb2.AuditEvent = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: audit_service_pb2.AuditEvent) -> Self:
        """The content of the message."""
        return cls(
            time=moment(message.time),
            service=message.service,
            issuer=message.issuer,
            subject=message.subject,
            project=message.project,
            rpc=message.rpc,
            resource=message.resource,
            code=message.code,
            reason=message.reason,
            request_id=message.request_id,
            peer=message.peer,
            message=message,
        )
