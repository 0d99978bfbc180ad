"""The docs check finds every kind of fault, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_docs import check


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "Makefile").write_text("demo: setup\n\ntest:\n")
    (tmp_path / "README.md").write_text("# Name\n\nRun `make demo`.\n")
    return tmp_path


def faults(root: Path, text: str) -> list[str]:
    document = root / "page.md"
    document.write_text(text)
    return list(check(root, [document]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](gone.md)", "no such file"),
        ("[a](README.md#gone)", "no such heading"),
        ("![image](gone.png)", "no such file"),
        ("Run `make gone` first.", "make gone"),
        ("```\nmake demo gone\n```", "make gone"),
        ("```\nmake test && make gone\n```", "make gone"),
        ("| a | b |\n\n|---|---|\n| 1 | 2 |", "no heading right above"),
    ],
)
def test_a_misleading_page_is_reported_with_its_fault(root: Path, text: str, fault: str) -> None:
    [found] = faults(root, text)
    assert found.startswith("page.md: ")
    assert fault in found


@pytest.mark.parametrize(
    "text",
    [
        "[a](README.md#name)",
        "[a](https://example.org/gone)",
        "They make sure that `make demo` and `make PYTHON=python3.12 test` work.",
        "```\nmake demo   # makes gone\nmake test\n```",
        "```\n[not a link](gone.md)\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "```\n\n|---|\n```",
    ],
)
def test_a_correct_page_passes(root: Path, text: str) -> None:
    assert faults(root, text) == []


def test_a_readme_that_is_too_long_is_refused(root: Path) -> None:
    (root / "README.md").write_text("line\n" * 151)
    assert faults(root, "") == ["README.md: has 151 lines, at most 150 are allowed"]
