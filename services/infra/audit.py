"""The audit: who asked for what, and what came of it; no log level silences it.

Each entry is a line of JSON with the fields of `Entry`; docs/security.md describes them for readers.
"""

import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from services.infra.audit_nats import NatsSink
from services.infra.audit_sinks import FileSink, Sink, StdoutSink, Writer
from services.kit import callers
from services.kit.roles import OPEN, POLICY, Role
from services.kit.settings import Settings
from services.kit.telemetry import Telemetry

VERSION = 1  # of an entry; a field may be added without a new one
MAX_TEXT = 300  # characters of a caller's text
DENIED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
# Where requests name what they are about, in this order: an upload's header, a resource, its parent, a new one's id.
_FIELDS = (
    *("name", "model_name", "parent"),
    *("upload_id", "dataset_id", "model_id", "evaluation_id", "batch_prediction_id"),
)
_PARTS = ("header", "dataset", "model", "evaluation", "batch_prediction", "request")

# What the call of the current task is about; set when its request arrives.
resource: ContextVar[str] = ContextVar("audit_resource", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One call."""

    audit: int = VERSION
    time: str  # of its end, UTC
    service: str
    issuer: str  # empty without a valid token
    subject: str
    project: str
    rpc: str  # Service/Method
    resource: str  # its name or id, as requested; empty if the request was never read
    code: str
    reason: str  # of a failure
    request_id: str
    peer: str


class Audit:
    """Notes calls, in one or more places.

    Law: `note` never blocks and never raises. Writes and denials are always noted, calls that only read (those for
    which a viewer's role is enough) if `reads` is set, and health never. An entry that cannot be kept is counted.
    """

    def __init__(self, service: str, sinks: Sequence[Sink], telemetry: Telemetry, *, reads: bool = False) -> None:
        self._service, self._reads = service, reads
        self._writers = [Writer(sink, telemetry) for sink in sinks]

    def note(self, path: str, code: str, reason: str, request_id: str, peer: str) -> None:
        """Notes the call of the current task, which has ended."""
        if path in OPEN or (code not in DENIED and not self._reads and POLICY.get(path) is Role.VIEWER):
            return
        caller = callers.current.get()
        entry = Entry(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            service=self._service,
            issuer=caller.issuer if caller else "",
            subject=caller.subject if caller else "",
            project=caller.project if caller else "",
            rpc=path.removeprefix("/").removeprefix("sightline.v1.")[:MAX_TEXT],
            resource=resource.get(),
            code=code,
            reason=reason,
            request_id=request_id,
            peer=peer,
        )
        line = json.dumps(asdict(entry)).encode() + b"\n"
        for writer in self._writers:
            writer.put(line)

    def close(self) -> None:
        """Writes what waits, for some seconds; the rest is counted as lost."""
        for writer in self._writers:
            writer.close()


def of_settings(service: str, settings: Settings, telemetry: Telemetry) -> Audit | None:
    """The audit that SIGHTLINE_AUDIT asks for; OSError if its file cannot be written."""
    sinks = [_sink(word, service, settings) for word in settings.audit_sinks]
    return Audit(service, sinks, telemetry, reads=settings.audit_reads) if sinks else None


def _sink(word: str, service: str, settings: Settings) -> Sink:
    if word == "nats":
        return NatsSink(service, settings)
    return StdoutSink() if word == "stdout" else FileSink(Path(word))


def about(request: Any) -> None:
    """Remembers what the call of the current task is about; of a stream, the first request that says so."""
    if isinstance(request, Message) and not resource.get():
        resource.set(_name_in(request)[:MAX_TEXT])


def _name_in(request: Message) -> str:
    known = request.DESCRIPTOR.fields_by_name
    for field in _FIELDS:
        if field in known and (value := getattr(request, field)):
            return str(value)
    for field in _PARTS:
        if field in known and known[field].message_type and request.HasField(field):
            return _name_in(getattr(request, field))
    return ""
