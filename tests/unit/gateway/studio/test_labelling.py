"""The studio's scripts as far as they need no browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from services.gateway.studio.assets import FOLDER

NODE = shutil.which("node") or "node"


def test_labels_are_corrected_undone_and_saved_as_they_should_be():
    tests = Path(__file__).with_name("labelling.test.mjs")
    run = subprocess.run([NODE, "--test", tests], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[!h]*.js")), ids=lambda path: path.name)
def test_a_script_is_a_module_without_mistakes_of_syntax(path: Path):
    command = [NODE, "--input-type=module", "--check", "-"]
    run = subprocess.run(command, input=path.read_text(), capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
