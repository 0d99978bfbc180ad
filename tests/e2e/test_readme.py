"""The commands of the README do what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from sightline.demo.digits import DigitSet
from sightline.local.stack import Stack
from tests.e2e.conftest import COMMAND

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
README = Path(__file__).resolve().parents[2] / "README.md"
SHORTER = {"10m": "60s"}  # the README's budget suits a real image set


def _block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"the README has no {language} block"
    return found[1]


def test_the_readmes_commands_run_as_they_stand(
    suite: Stack, images: tuple[DigitSet, DigitSet], tmp_path: Path
) -> None:
    shutil.copytree(images[0].coco.parent, tmp_path / "photos")
    environment = {**os.environ, **suite.addresses.environment()}
    environment["PATH"] = f"{COMMAND.parent}{os.pathsep}{environment['PATH']}"

    def run(*words: str) -> str:
        ended = subprocess.run(
            words, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment, check=False
        )
        assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    commands = [line for line in _block("sh").splitlines() if line and not line.startswith("#")]
    assert len(commands) >= 8
    for line in commands:
        run(*(SHORTER.get(word, word) for word in shlex.split(line)))
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["0001.png", "0002.png"]
    said = run(str(COMMAND.parent / "python"), "-c", _block("python"))
    assert re.search(r"^(zero|one|two) [01]\.\d+", said, re.MULTILINE)
