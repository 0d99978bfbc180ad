"""The commands of the README, and the programs of README and docs/client.md, run as written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.demo.digits import DigitSet
from sightline.local.stack import Stack
from tests.e2e.conftest import COMMAND

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
SHORTER = "60s"  # instead of 10m, which suits a real image set

Run = Callable[..., str]


@pytest.fixture
def run(suite: Stack, images: tuple[DigitSet, DigitSet], tmp_path: Path) -> Run:
    """Runs a command in a folder with `photos`, against the suite; returns its output."""
    shutil.copytree(images[0].coco.parent, tmp_path / "photos")
    environment = {**os.environ, **suite.addresses.environment()}
    environment["PATH"] = f"{COMMAND.parent}{os.pathsep}{environment['PATH']}"

    def run(*words: str) -> str:
        ended = subprocess.run(
            words, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment, check=False
        )
        assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"
        assert not (words[0].endswith("python") and ended.stderr), "progress is for terminals"
        return ended.stdout

    return run


def blocks(document: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no {language} block"
    return found


def program(document: str) -> str:
    """All Python of a document as one program."""
    return "\n".join(blocks(document, "python")).replace('"10m"', f'"{SHORTER}"')


def test_the_readmes_commands_run_as_written(run: Run, tmp_path: Path) -> None:
    commands = [line for line in blocks("README.md", "sh")[0].splitlines() if line and not line.startswith("#")]
    assert len(commands) >= 8
    for line in commands:
        run(*(SHORTER if word == "10m" else word for word in shlex.split(line)))
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["0001.png", "0002.png"]


def test_the_readmes_program_runs_as_written(run: Run) -> None:
    accuracy, seen = run(str(COMMAND.parent / "python"), "-c", program("README.md")).splitlines()
    assert 0 < float(accuracy) <= 1
    assert re.fullmatch(r"Tag\(name='(zero|one|two)', confidence=[01]\.\d+\)", seen)


@pytest.mark.long
def test_the_examples_of_the_client_page_run_in_order(run: Run) -> None:
    output = run(str(COMMAND.parent / "python"), "-c", program("docs/client.md"))
    assert output.startswith("READY 48 ['zero', 'one', 'two']\n")
    assert re.search(r"^A budget of 1 s is not enough .* repeat with --budget", output, re.MULTILINE)
    assert len(re.findall(r"^photos/test/\d{4}\.png (?:zero|one|two)$", output, re.MULTILINE)) == 12
    assert re.search(r"^models/garden-birds/trials/t000 \(.+\) [01]\.\d+ 0:", output, re.MULTILINE)
