"""docs/security.md: each threat has a control and a test, and that test exists."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from services.infra.audit import VERSION, Entry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/security.md").read_text()
ROWS = re.findall(r"^\| ([STRIDE]) \| (.+?) \| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE)


def named_tests(cell: str) -> list[tuple[str, str]]:
    """The files and functions that a cell names."""
    return re.findall(r"`([\w/]+\.py)::(\w+)`", cell)


def test_every_kind_of_threat_is_considered() -> None:
    assert {kind for kind, *_ in ROWS} == set("STRIDE")


@pytest.mark.parametrize("row", ROWS, ids=[threat for _, threat, *_ in ROWS])
def test_a_threat_has_a_control_and_tests_that_exist(row: tuple[str, str, str, str]) -> None:
    _, _, control, cell = row
    assert control
    assert named_tests(cell), "no test is named"
    for file, function in named_tests(cell):
        parsed = ast.parse((ROOT / file).read_text())
        found = {node.name for node in ast.walk(parsed) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function in found, f"{file} has no {function}"


def test_the_fields_of_an_audit_entry_are_documented() -> None:
    _, _, rest = TEXT.partition("\n## Audit entries\n")
    table = re.findall(r"^\| (`.+?`) \|", rest.partition("\n## ")[0], re.MULTILINE)
    documented = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert documented == {field.name for field in fields(Entry)}
    assert f"Version of the entry: {VERSION}." in rest
