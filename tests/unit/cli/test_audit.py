"""`sightline audit`: which entries it lists."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.infra import audit
from services.infra.audit import Audit, FileSink
from services.kit import callers
from services.kit.callers import Caller
from services.kit.roles import Role
from services.kit.telemetry import MemoryTelemetry
from tests.unit.cli.conftest import Command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The entries of two callers, as a service writes them, among other lines."""
    path = tmp_path / "audit.jsonl"
    noting = Audit("dataset", FileSink(path), MemoryTelemetry())
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
    outcome = sightline("audit", *words, "--json")
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
    shown = sightline("audit", file).out
    assert "key:alice" in shown
    assert "PERMISSION_DENIED" in shown
    assert "\x1b" not in shown


def test_a_file_that_cannot_be_read_is_named(sightline: Command, tmp_path: Path) -> None:
    outcome = sightline("audit", tmp_path / "none.jsonl")
    assert (outcome.code, "none.jsonl cannot be read" in outcome.err) == (1, True)
