"""CONTRIBUTING.md's table of changes is true: its files exist, and its names are defined only there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = r"\[(\S+)\]\(\S+\)"
ROW = rf"^\| ((?:add|change) [^|]+) \| ((?:`[\w-]+`(?: or )?)+) in {LINK} \| {LINK} \| {LINK} \|$"
ROWS = re.findall(ROW, (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
CHANGES = {
    *("add a backbone", "add an image format", "add a metric", "add an alert", "add an rpc"),
    *("add a flag to a command", "add an S3 setting"),
    *("change the lease time", "change the hold-out share", "change the NMS threshold"),
}
row = pytest.mark.parametrize(("names", "code", "test", "doc"), [one[1:] for one in ROWS], ids=[one[0] for one in ROWS])


def defines(path: Path, name: str) -> bool:
    """Whether the file has a class, function, constant, field or group of that name."""
    pattern = rf"^\s*(?:(?:def|class) {name}\b|{name}(?:: | = )|- name: {name}$)"
    return re.search(pattern, path.read_text(), re.MULTILINE) is not None


def test_the_table_has_every_change() -> None:
    assert len(ROWS) == len(CHANGES)
    assert {one[0] for one in ROWS} == CHANGES


@row
def test_a_name_is_defined_in_its_file_and_nowhere_else_in_the_package(
    names: str, code: str, test: str, doc: str
) -> None:
    file = ROOT / code
    defined = re.findall(r"`([\w-]+)`", names)
    assert defined
    for name in defined:
        assert [path for path in sorted(file.parent.rglob(f"*{file.suffix}")) if defines(path, name)] == [file]


@row
def test_the_test_mentions_what_is_changed(names: str, code: str, test: str, doc: str) -> None:
    text = (ROOT / test).read_text()
    subjects = [Path(code).stem, *re.findall(r"`([\w-]+)`", names)]
    assert re.search("|".join(map(re.escape, subjects)), text, re.IGNORECASE), f"{test} is about neither of {subjects}"
    assert (ROOT / doc).suffix == ".md"
    assert (ROOT / doc).exists()
