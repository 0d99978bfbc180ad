"""`sightline audit`: which entries it lists."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from services.infra import audit
from services.infra.audit import Audit
from services.infra.audit_sinks import FileSink
from services.kit import callers
from services.kit.callers import Caller
from services.kit.roles import Role
from services.kit.telemetry import MemoryTelemetry
from sightline.v1.audit_service_pb2 import AuditEvent, ListAuditEventsRequest
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The entries of two callers, as a service writes them, among other lines."""
    path = tmp_path / "audit.jsonl"
    noting = Audit("dataset", [FileSink(path)], MemoryTelemetry())
    for subject, resource, code in (
        ("alice", "datasets/birds", "OK"),
        ("eve", "datasets/birds", "PERMISSION_DENIED"),
        ("alice", "models/m/evaluations/e", "OK"),
        ("\x1b[31m", "models/m2", "OK"),
    ):
        callers.current.set(Caller(subject, frozenset({Role.ADMIN})))
        audit.resource.set(resource)
        noting.note("/sightline.v1.DatasetService/DeleteDataset", code, "", "r1", "ipv4:1.2.3.4:5")
    noting.close()
    callers.current.set(None)
    audit.resource.set("")
    lines = path.read_text()
    old = json.loads(lines.splitlines()[0]) | {
        "time": (datetime.now(UTC) - timedelta(days=2)).isoformat(),
        "subject": "old",
    }
    path.write_text(f'{{"event": "call"}}\nplain text\n{lines}{json.dumps(old)}\n{{"audit": 1, "ti')
    return path


def subjects(sightline: Command, *words: object) -> list[str]:
    outcome = sightline("audit", "read", *words, "--json")
    assert outcome.code == 0, outcome.err
    return [entry["subject"] for entry in json.loads(outcome.out)["entries"]]


def test_entries_are_listed_by_time_and_filtered(sightline: Command, file: Path) -> None:
    assert subjects(sightline, file) == ["old", "alice", "eve", "alice", "\x1b[31m"]
    assert subjects(sightline, file, "--since", "1h") == ["alice", "eve", "alice", "\x1b[31m"]
    assert subjects(sightline, file, "--caller", "alice") == ["alice", "alice"]
    assert subjects(sightline, file, "--caller", "key:eve") == ["eve"]
    assert subjects(sightline, file, "--resource", "models/m") == ["alice"]
    assert subjects(sightline, file, "--denied") == ["eve"]


def test_the_table_names_caller_rpc_resource_and_outcome_and_obeys_no_escapes(sightline: Command, file: Path) -> None:
    shown = sightline("audit", "read", file).out
    assert "key:alice" in shown
    assert "PERMISSION_DENIED" in shown
    assert "\x1b" not in shown


def test_a_file_that_cannot_be_read_is_named(sightline: Command, tmp_path: Path) -> None:
    outcome = sightline("audit", "read", tmp_path / "none.jsonl")
    assert (outcome.code, "none.jsonl cannot be read" in outcome.err) == (1, True)


def stored(fakes: Fakes) -> None:
    for number in range(3):
        event = AuditEvent(service="dataset", issuer="key", subject=f"ann{number}", project="acme", code="OK")
        event.time.FromDatetime(datetime(2026, 5, 1, 12, number, tzinfo=UTC))
        event.rpc, event.resource, event.peer = "DatasetService/DeleteDataset", f"datasets/d{number}", "ipv4:10.0.0.1:5"
        fakes.audit.append(event)
    fakes.audit[2].code, fakes.audit[2].subject = "UNAUTHENTICATED", ""


def test_stored_entries_are_listed_from_all_pages(sightline: Command, fakes: Fakes) -> None:
    stored(fakes)
    shown = sightline("audit", "list")
    assert shown.code == 0, shown.err
    for words in ("key:ann0", "key:ann1", "(ipv4:10.0.0.1:5)", "datasets/d2", "UNAUTHENTICATED", "acme"):
        assert words in shown.out
    events = sightline("audit", "list", "--json").json["events"]
    assert isinstance(events, list)
    assert [event["resource"] for event in events] == ["datasets/d0", "datasets/d1", "datasets/d2"]


def test_the_service_gets_the_filters(sightline: Command, fakes: Fakes) -> None:
    words = ("--since", "1h", "--caller", "ann", "--in", "acme", "--rpc", "DeleteModel", "--resource", "models/m")
    assert sightline("audit", "list", *words, "--denied").code == 0
    (request,) = fakes.requests
    assert isinstance(request, ListAuditEventsRequest)
    assert (request.subject, request.project, request.rpc, request.resource) == (
        "ann",
        "acme",
        "DeleteModel",
        "models/m",
    )
    assert list(request.codes) == ["UNAUTHENTICATED", "PERMISSION_DENIED"]
    assert timedelta(minutes=59) < datetime.now(UTC) - request.start_time.ToDatetime(UTC) < timedelta(minutes=61)


def test_without_stored_entries_the_command_says_what_to_do(sightline: Command, fakes: Fakes) -> None:
    refused = status(grpc.StatusCode.FAILED_PRECONDITION, "AuditNotStored", "The audit is not stored.")
    fakes.errors["ListAuditEvents"] = [refused]
    outcome = sightline("audit", "list")
    assert (outcome.code, "`sightline audit read`" in outcome.err) == (9, True)
