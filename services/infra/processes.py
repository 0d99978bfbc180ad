"""The life of a process: it runs until SIGTERM or SIGINT asks it to stop, then shuts down in its own time."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from services.kit.log import Log
from services.kit.names import new_uid

_log = Log(__name__)


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `main` with the event that a signal sets, then ends the process; status 1 for an exception, which is logged.

    The process ends at once: Python would wait for threads, which a silent store holds for minutes, and asyncio for
    libraries' tasks, of which NATS's reconnecting one may survive its cancellation.
    """
    asyncio.run(_main(main))


async def _main(main: Callable[[asyncio.Event], Awaitable[None]]) -> NoReturn:
    stop, status = asyncio.Event(), 0
    stop_at_signals(stop)
    try:
        await main(stop)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends the process
        _log.error("process_failed", error, **_setting_of(error))
        status = 1
    sys.stdout.flush()
    os._exit(status)


def _setting_of(error: Exception) -> dict[str, str]:
    """Which variable has the path that the error is about, or a folder above it: the system's message names none."""
    path = error.filename if isinstance(error, OSError) else None
    if not isinstance(path, str):
        return {}
    ours = ((name, value) for name, value in os.environ.items() if name.startswith("SIGHTLINE_") and value)
    named = [name for name, value in ours if Path(path).is_relative_to(value)]
    return {"setting": ", ".join(named)} if named else {}


def stop_at_signals(stop: asyncio.Event) -> None:
    """Has SIGTERM and SIGINT set the event, whoever handled them before."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop, number)


def identity() -> str:
    """A unique name of this process, for leases; it says where to look."""
    return f"{socket.gethostname()}-{os.getpid()}-{new_uid()}"


def _stop(stop: asyncio.Event, number: signal.Signals) -> None:
    _log.info("process_stopping", signal=number.name)
    stop.set()
