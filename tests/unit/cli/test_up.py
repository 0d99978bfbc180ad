"""What `sightline up` prints once everything runs, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sightline.cli.up import print_death, print_stack
from sightline.local.processes import Died
from sightline.local.stack import Stack

# A suite that starts at once, in a process of its own: signals and closed pipes are for it alone.
SUITE = """
import signal, sys
from pathlib import Path
from sightline.cli import up
from sightline.local import stack

class Fake(stack.Stack):
    gateway = "http://127.0.0.1:50054"

    async def start(self):
        print("a hangup is", "ignored" if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else "heard")

    async def stop(self):
        self.data.with_suffix(".stopped").touch()

signal.signal(signal.SIGHUP, getattr(signal, sys.argv[2]))
stack.Stack = Fake
up.up(Path(sys.argv[1]), 0, None, 1)
"""


def test_the_addresses_of_the_services_and_of_the_studio_are_printed(tmp_path: Path) -> None:
    stack, printed = Stack(tmp_path), StringIO()
    stack.gateway = "http://127.0.0.1:50054"
    print_stack(stack, Console(file=printed, width=200))
    lines = [line.split() for line in printed.getvalue().splitlines()]
    assert ["studio", "http://127.0.0.1:50054/studio"] in lines
    assert any(line[:2] == ["gateway", stack.gateway] for line in lines)


class Broken(StringIO):
    """A terminal that has been closed."""

    def write(self, _: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_death_that_cannot_be_printed_harms_nothing() -> None:
    print_death(Console(file=Broken()), Died("trainer", "SIGKILL", 0.2, "its log"))


@contextmanager
def suite(data: Path, output: int, hangup: str) -> Generator[subprocess.Popen[bytes]]:
    """The suite; whoever starts it has left SIGHUP like this."""
    process = subprocess.Popen([sys.executable, "-c", SUITE, data, hangup], stdout=output, stderr=output)
    os.close(output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_until_ready(output: int) -> str:
    """What is printed until the suite runs."""
    text = b""
    while b"Ctrl-C" not in text:
        more = os.read(output, 4096)
        assert more, text.decode()
        text += more
    return text.decode()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("make_output", [os.openpty, os.pipe])
def test_the_suite_is_stopped_though_nobody_reads_what_it_prints(
    tmp_path: Path, number: signal.Signals, make_output: Callable[[], tuple[int, int]]
) -> None:
    ours, theirs = make_output()
    with suite(tmp_path / "suite", theirs, "SIG_DFL") as process:
        assert "a hangup is heard" in read_until_ready(ours)
        os.close(ours)
        process.send_signal(number)
        assert process.wait(60) == 0
    assert (tmp_path / "suite.stopped").exists()


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with suite(tmp_path / "suite", theirs, "SIG_IGN"):
        assert "a hangup is ignored" in read_until_ready(ours)
    os.close(ours)
