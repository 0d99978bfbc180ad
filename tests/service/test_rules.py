"""promtool on the rules: they parse, and each alert fires when its tests say and not before."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.servers import find_program

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


@pytest.mark.parametrize(
    "words", [("check", "rules", "rules.yaml"), ("check", "config", "prometheus.yaml"), ("test", "rules", "tests.yaml")]
)
def test_promtool_finds_no_fault(words: tuple[str, ...]) -> None:
    promtool = find_program("promtool", "prometheus")
    ran = subprocess.run([promtool, *words], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "FAILED" not in ran.stdout
