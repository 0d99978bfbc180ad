"""What `sightline up` prints once everything runs."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sightline.cli.up import _run, print_death, print_stack
from sightline.local.processes import Died
from sightline.local.stack import Stack


def test_the_addresses_of_the_services_and_of_the_studio_are_printed(tmp_path: Path) -> None:
    stack, printed = Stack(tmp_path), StringIO()
    stack.gateway = "http://127.0.0.1:50054"
    print_stack(stack, Console(file=printed, width=200))
    lines = [line.split() for line in printed.getvalue().splitlines()]
    assert ["studio", "http://127.0.0.1:50054/studio"] in lines
    assert any(line[:2] == ["gateway", stack.gateway] for line in lines)


class Broken(StringIO):
    """A terminal that has been closed, or a pipe that nobody reads."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, _: str) -> int:
        raise self._error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError()])
def test_a_death_that_cannot_be_printed_harms_nothing(error: OSError) -> None:
    print_death(Console(file=Broken(error)), Died("trainer", "SIGKILL", 0.2, "its log"))


class Closing(StringIO):
    """A terminal that is closed once the suite is to stop."""

    def write(self, text: str) -> int:
        if "stop" in text and "stops" not in text:
            raise OSError(5, "Input/output error")
        return super().write(text)


class Fake(Stack):
    """A suite that starts at once."""

    stopped = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True


async def ended(stack: Stack, console: Console, *numbers: int) -> bool:
    """Whether the suite ends after the signals."""
    running = asyncio.create_task(_run(stack, console))
    for _ in range(5):
        await asyncio.sleep(0.01)
    for number in numbers:
        os.kill(os.getpid(), number)
    with suppress(OSError):
        await asyncio.wait([running], timeout=0.5)
    done = running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return done


async def test_the_suite_is_stopped_though_its_terminal_is_gone(tmp_path: Path) -> None:
    stack = Fake(tmp_path)
    stack.gateway = "http://127.0.0.1:50054"
    printed = Closing()
    assert await ended(stack, Console(file=printed), signal.SIGHUP)
    assert stack.stopped


async def test_a_signal_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stack = Fake(tmp_path)
        stack.gateway = "http://127.0.0.1:50054"
        assert not await ended(stack, Console(file=StringIO()), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
