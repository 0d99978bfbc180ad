"""How a process ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from services.infra.processes import run

HELD = """
import asyncio, time
from services.infra.processes import run
from services.infra.threads import Threads

async def stubborn():
    while True:
        try:
            await asyncio.sleep(25)
        except asyncio.CancelledError:
            pass

async def main(stop):
    held = asyncio.ensure_future({what})
    await asyncio.sleep(0)

run(main)
"""


@pytest.fixture(autouse=True)
def _exit_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the end of the process by SystemExit."""
    monkeypatch.setattr(os, "_exit", sys.exit)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_process_to_stop_and_lets_it_finish(number):
    finished = []

    async def main(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 5)
        finished.append(True)

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 0
    assert finished


def test_a_process_that_fails_exits_with_status_1():
    async def main(_stop: asyncio.Event) -> None:
        raise OSError("no such host")

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 1


@pytest.mark.parametrize("what", ["Threads(1, 'store').run(time.sleep, 25)", "stubborn()"])
def test_neither_a_blocked_thread_nor_a_task_that_ignores_cancellation_delays_the_exit(what):
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", HELD.format(what=what)], check=True, timeout=60)
    assert time.monotonic() - began < 20
