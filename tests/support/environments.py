"""Fresh virtual environments with given wheels, made offline: their dependencies are links into the running one."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

from packaging.requirements import Requirement

Find: TypeAlias = Callable[[str], metadata.Distribution]


def distributions(
    name: str, extra: str = "", find: Find = metadata.distribution, seen: frozenset[tuple[str, str]] = frozenset()
) -> set[str]:
    """All distributions that `name[extra]` installs, according to the installed metadata."""
    if (name, extra) in seen:
        return set()
    found = {name}
    try:
        required = find(name).requires or []
    except metadata.PackageNotFoundError:  # only for another platform
        return found
    for requirement in map(Requirement, required):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in {"", *requirement.extras}:
                found |= distributions(requirement.name, wanted, find, seen | {(name, extra)})
    return found


class Environment:
    """A virtual environment with the wheels and the dependencies that they declare, and nothing else.

    The dependencies are links to those of the running interpreter, so that no test installs torch again.
    """

    def __init__(self, folder: Path, wheels: tuple[Path, ...], name: str, extra: str = "") -> None:
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        self.pip("install", "--quiet", "--no-deps", "--no-index", *map(str, wheels))
        self._own = {one.name: one for one in metadata.distributions(path=[str(self.packages)])}
        for other in distributions(name, extra, self._find) - self._own.keys():
            self._link(other)

    def pip(self, *words: str) -> str:
        """Runs pip for this environment; returns what it prints."""
        return _output([sys.executable, "-m", "pip", "--python", str(self.python), *words], self.folder)

    def run(self, code: str) -> str:
        """Runs Python code in it, from a folder without code; returns what it prints."""
        return _output([str(self.python), "-c", code], self.folder)

    def _find(self, name: str) -> metadata.Distribution:
        return self._own.get(name) or metadata.distribution(name)

    def _link(self, name: str) -> None:
        try:
            one = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # only for another platform
            return
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            link = self.packages / top
            if not link.exists():
                link.symlink_to(Path(str(one.locate_file(top))))
        made = {entry.name for entry in one.entry_points}  # scripts for the Python of the other environment
        for file in one.files or ():
            if file.parent.name == "bin" and file.parts[0] == ".." and file.name not in made:
                (self.folder / "bin" / file.name).symlink_to(Path(str(one.locate_file(file))).resolve())


def _output(command: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
