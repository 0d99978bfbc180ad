"""The audit: who asked for what, and what came of it. A stream of its own, which no log level silences.

Each entry is a line of JSON with the fields of `Entry`; docs/security.md describes them for readers.
"""

import json
import os
import queue
import sys
import threading
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.message import Message

from services.kit import callers
from services.kit.log import Log
from services.kit.roles import OPEN, POLICY, Role
from services.kit.settings import Settings
from services.kit.telemetry import Metric, MetricKind, Telemetry

VERSION = 1  # of an entry; a field may be added without a new one
MAX_WAITING = 10_000  # entries
MAX_TEXT = 300  # characters of a caller's text
CLOSE_SECONDS = 5.0  # to write what waits, at the end
DENIED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
# Where requests name what they are about, in this order: an upload's header, a resource, its parent, a new one's id.
_FIELDS = ("name", "model_name", "parent", "upload_id", "dataset_id", "model_id", "evaluation_id")
_PARTS = ("header", "dataset", "model", "evaluation")

LOST = Metric(
    "sightline_audit_lost_total", MetricKind.COUNTER, "Audit entries that could not be written, or came too fast."
)

# What the call of the current task is about; set when its request arrives.
resource: ContextVar[str] = ContextVar("audit_resource", default="")

_log = Log(__name__)


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


class Sink(Protocol):
    """Where entries go."""

    def write(self, lines: bytes) -> None:
        """Writes whole lines; OSError."""
        ...


class StdoutSink:
    """Standard output, on which services print nothing else."""

    def write(self, lines: bytes) -> None:
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()


class FileSink:
    """A file to which lines are appended; only its owner can read it. One that was moved away is made anew."""

    def __init__(self, path: Path) -> None:
        """OSError if the file cannot be written."""
        self._path = path
        self._file = self._opened()

    def write(self, lines: bytes) -> None:
        if not self._is_there():
            os.close(self._file)
            self._file = self._opened()
        while lines:
            lines = lines[os.write(self._file, lines) :]

    def _opened(self) -> int:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False


class Audit:
    """Writes entries in a thread.

    Law: `note` never blocks and never raises. Writes and denials are always noted, calls that only read (those for
    which a viewer's role is enough) if `reads` is set, and health never. An entry that cannot be kept is counted.
    """

    def __init__(self, service: str, sink: Sink, telemetry: Telemetry, *, reads: bool = False) -> None:
        self._service, self._sink, self._telemetry, self._reads = service, sink, telemetry, reads
        self._waiting: queue.Queue[Entry | None] = queue.Queue(MAX_WAITING)
        self._failing = False
        telemetry.add(LOST, 0)
        self._writer = threading.Thread(target=self._write, name="audit", daemon=True)
        self._writer.start()

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
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            self._lose(1, "more calls end than can be written")

    def close(self) -> None:
        """Writes what waits, for up to CLOSE_SECONDS."""
        try:
            self._waiting.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._writer.join(CLOSE_SECONDS)

    def _write(self) -> None:
        ended = False
        while not ended:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            ended = None in batch
            entries = [entry for entry in batch if entry]
            try:
                self._sink.write(b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in entries))
                self._failing = False
            except (OSError, ValueError) as error:  # the latter for a closed stream
                self._lose(len(entries), str(error))

    def _lose(self, count: int, problem: str) -> None:
        self._telemetry.add(LOST, count)
        if not self._failing:  # once, not for each entry
            self._failing = True
            _log.error("audit_lost", problem=problem, count=count)


def of_settings(service: str, settings: Settings, telemetry: Telemetry) -> Audit | None:
    """The audit that SIGHTLINE_AUDIT asks for; OSError if its file cannot be written."""
    if settings.audit == "none":
        return None
    sink = StdoutSink() if settings.audit == "stdout" else FileSink(Path(settings.audit))
    return Audit(service, sink, telemetry, reads=settings.audit_reads)


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
        if field in known and request.HasField(field):
            return _name_in(getattr(request, field))
    return ""
