"""How a process ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

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


RUN = """
import asyncio, os
from services.infra.processes import run

async def main(stop):
    {what}
    print("finished")

run(main)
"""


def ended(what: str) -> tuple[int, str]:
    """(status, output) of a process that does this."""
    done = subprocess.run([sys.executable, "-c", RUN.format(what=what)], stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_process_to_stop_and_lets_it_finish(number: signal.Signals) -> None:
    status, output = ended(f"os.kill(os.getpid(), {number:d}); await asyncio.wait_for(stop.wait(), 5)")
    assert status == 0
    assert output.endswith("finished\n")


def test_a_process_that_fails_exits_with_status_1() -> None:
    status, output = ended("raise OSError('no such host')")
    assert status == 1
    assert "finished" not in output


@pytest.mark.parametrize("what", ["Threads(1, 'store').run(time.sleep, 25)", "stubborn()"])
def test_neither_a_blocked_thread_nor_a_task_that_ignores_cancellation_delays_the_exit(what: str) -> None:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", HELD.format(what=what)], check=True, timeout=60)
    assert time.monotonic() - began < 20
