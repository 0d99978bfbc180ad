"""What a process that keeps to its files cannot do, and what it still can; each in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.kit import landlock

pytestmark = pytest.mark.skipif(not landlock.supported(), reason="this system has no Landlock")

HEAD = """
import os, socket, subprocess, sys
from pathlib import Path
from services.kit import confinement, landlock

def outcome(act):
    try:
        act()
    except OSError as fault:
        return type(fault).__name__
    return "done"
"""


def ran(program: str) -> list[str]:
    """What the program prints, in words; in a folder that does not let it read anything more."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program],
        capture_output=True, text=True, check=False, cwd="/",
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def folders(tmp_path: Path) -> str:
    """Three folders with a file each, as the beginning of a program."""
    for name in ("read", "written", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return f"root = Path({str(tmp_path)!r})\nread, written, other = root / 'read', root / 'written', root / 'other'\n"


def test_only_the_folders_are_opened_and_only_the_writable_ones_written_to(folders: str) -> None:
    found = ran(
        folders + "assert landlock.keep_to([read, root / 'missing'], [written])\n"
        "for act in (\n"
        "    lambda: (read / 'file').read_text(),\n"
        "    lambda: (written / 'file').write_text('new'),\n"
        "    lambda: (written / 'file').rename(written / 'renamed'),\n"
        "    lambda: (written / 'folder').mkdir(),\n"
        "    lambda: (read / 'file').write_text('new'),\n"
        "    lambda: (read / 'file').unlink(),\n"
        "    lambda: (other / 'file').read_text(),\n"
        "    lambda: (other / 'new').write_text('new'),\n"
        "    lambda: list(other.iterdir()),\n"
        "    lambda: (written / 'link').symlink_to(other / 'file') or (written / 'link').read_text(),\n"
        "    lambda: os.link(other / 'file', written / 'hard'),\n"
        "):\n"
        "    print(outcome(act))\n"
    )
    assert found == ["done"] * 4 + ["PermissionError"] * 6 + ["OSError"]


def test_a_single_file_may_be_read_and_what_is_open_stays_so(folders: str) -> None:
    found = ran(
        folders + "opened = open(other / 'file')\n"
        "assert landlock.keep_to([read / 'file'], [])\n"
        "print((read / 'file').read_text(), opened.read(), outcome(lambda: list(read.iterdir())))\n"
    )
    assert found == ["read", "other", "PermissionError"]


@pytest.mark.parametrize("linked", ["package", "files"])
def test_packages_that_installers_have_linked_are_imported(tmp_path: Path, linked: str) -> None:
    stored, installed = tmp_path / "cache" / "large", tmp_path / "installed"
    stored.mkdir(parents=True)
    (stored / "__init__.py").touch()
    (stored / "later.py").write_text("found = 'found'")
    (stored.parent / "secret").write_text("secret")
    (installed / "large").mkdir(parents=True)
    if linked == "files":
        for file in stored.iterdir():
            (installed / "large" / file.name).symlink_to(file)
    else:
        (installed / "large").rmdir()
        (installed / "large").symlink_to(stored)
    found = ran(
        f"sys.path.insert(0, {str(installed)!r})\n"
        "assert landlock.keep_to([], [])\n"
        "import large.later\n"
        f"print(large.later.found, outcome(lambda: open({str(stored.parent / 'secret')!r})))\n"
    )
    assert found == ["found", "PermissionError"]


def test_children_inherit_it_and_python_still_works(folders: str) -> None:
    found = ran(
        folders + "from multiprocessing.shared_memory import SharedMemory\n"
        "assert landlock.keep_to([], [written])\n"
        "import sqlite3, xml.dom.minidom, zoneinfo, PIL.Image, sightline.images\n"
        "shared = SharedMemory(create=True, size=4096); shared.close(); shared.unlink()\n"
        "open('/dev/null', 'w').close()\n"
        "code = f'import tempfile, numpy; open({str(other / \"file\")!r})'\n"
        "done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)\n"
        "print('PermissionError' in done.stderr)\n"
    )
    assert found == ["True"]


def test_other_processes_keep_their_environment_their_memory_and_their_lives() -> None:
    found = ran(
        "confinement.leave_network()\n"
        "assert landlock.keep_to([], [])\n"
        "other = Path('/proc', str(os.getppid()))\n"
        "for act in (lambda: (other / 'environ').read_bytes(), lambda: (other / 'mem').open('rb').read(1),\n"
        "            lambda: os.kill(os.getppid(), 0)):\n"
        "    print(outcome(act))\n"
        "print(outcome(lambda: Path('/proc/self/environ').read_bytes()))\n"
    )
    assert found[3] == "done"
    if landlock.supported() < 6:  # signals are kept in from this version on
        del found[2]
    assert set(found[:-1]) == {"PermissionError"}


@pytest.mark.skipif(landlock.supported() < 4, reason="this system's Landlock knows nothing of TCP")
def test_tcp_is_refused_where_the_network_is_not_wanted_and_only_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for network, said in ((False, "PermissionError"), (True, "done")):
            program = (
                f"assert landlock.keep_to([], [], network={network})\n"
                f"print(outcome(lambda: socket.create_connection(('127.0.0.1', {port})).close()))\n"
                "print(outcome(lambda: socket.create_server(('127.0.0.1', 0)).close()))\n"
            )
            assert ran(program) == [said, said]


def test_a_system_without_it_is_told_and_changes_nothing(folders: str) -> None:
    found = ran(
        folders + "landlock.supported = lambda: 0\n"
        "print(landlock.keep_to([], []), outcome(lambda: (other / 'file').read_text()))\n"
    )
    assert found == ["False", "done"]
