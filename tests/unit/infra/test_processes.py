"""How a process ends."""

import asyncio
import os
import signal

import pytest

from services.infra.processes import run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_process_to_stop_and_lets_it_finish(number):
    finished = []

    async def main(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 5)
        finished.append(True)

    run(main)
    assert finished


def test_a_process_that_fails_says_so_by_its_status():
    async def main(_stop: asyncio.Event) -> None:
        raise OSError("no such host")

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 1
