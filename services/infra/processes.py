"""The life of a process: runs until SIGTERM or SIGINT asks it to stop, then lets it end in its own time."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable

from services.kit.log import Log
from services.kit.names import new_uid

_log = Log(__name__)


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `main` with the event that a signal sets. What it raises is logged, and the process ends with status 1."""
    try:
        asyncio.run(_main(main))
    except Exception as error:
        _log.error("process_failed", error)
        raise SystemExit(1) from error


async def _main(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    await main(stop)


def identity() -> str:
    """A name for this process that no other ever has; leases carry it, and it says where to look."""
    return f"{socket.gethostname()}-{os.getpid()}-{new_uid()}"


def _stop(stop: asyncio.Event, number: signal.Signals) -> None:
    _log.info("process_stopping", signal=number.name)
    stop.set()
