"""One real suite for all tests of this folder: separate processes, a real nats-server, the installed command."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from sightline.client.transport.addresses import Addresses
from sightline.demo import digits
from sightline.local.stack import Stack
from tests.support.commands import Outcome

COMMAND = Path(sys.executable).parent / "sightline"
START_SECONDS = 240.0
COMMAND_SECONDS = 600.0  # longer than any budget, even on a busy machine


@dataclass(frozen=True)
class Command:
    """`sightline` in a separate process, against these addresses."""

    addresses: Addresses
    folder: Path
    path: Path = COMMAND

    def __call__(self, *words: object, code: int | None = 0) -> Outcome:
        """Runs the command; fails unless it exits with the code, if one is given."""
        ended = subprocess.run(
            [self.path, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            cwd=self.folder,
            env={**os.environ, **self.addresses.environment()},
            check=False,
        )
        assert code in (None, ended.returncode), (
            f"{words} exited with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        )
        assert "Traceback" not in ended.stderr
        return Outcome(ended.returncode, ended.stdout, ended.stderr)


class RunningStack:
    """A Stack on an event loop in a separate thread, for synchronous tests."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.stack = Stack(folder, base_port=0, **options)
        self._loop = asyncio.new_event_loop()
        # A child dies with the thread that started it, so this one lives until the end.
        self._thread = threading.Thread(target=self._loop.run_forever, name="stack", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.stack.start(), self._loop).result(START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.stack.stop(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The running suite. Tests that stop or kill parts of it start their own."""
    with RunningStack(tmp_path_factory.mktemp("suite")) as running:
        yield running.stack


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[digits.DigitSet, digits.DigitSet]:
    """A training and a test set: three digits, 20 scans of each."""
    return digits.write(tmp_path_factory.mktemp("images"), digits=3, per_digit=20)


@pytest.fixture
def sightline(suite: Stack, tmp_path: Path) -> Command:
    """The command against the running suite."""
    return Command(suite.addresses, tmp_path)
