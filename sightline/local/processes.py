"""Child processes: started, restarted when they die, stopped, and never left behind."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sightline.local import die_with_parent

PAUSE_SECONDS = (0.2, 30.0)  # before a restart: after the first death, and at most
STEADY_SECONDS = 60.0  # after a program has run this long, the pause is reset
MAX_LOG_BYTES = 16 * 1024 * 1024
TAIL_LINES = 8
TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and how to tell that it is ready."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Died:
    """A program ended without being stopped."""

    name: str
    how: str  # `status 1`, `SIGKILL`, `not started: Permission denied`
    pause_seconds: float  # until it is restarted
    log_tail: str  # the end of its log


class Child:
    """Keeps one program running from `start` to `stop`.

    Law: the program has its own process group, of which nothing is left once the program has ended. It dies with this
    process, however that ends. Its output is appended to the log, which is rotated when it is too long. A program that
    dies, or cannot be started again, is restarted after a pause, which doubles with each death up to half a minute,
    without limit.
    """

    def __init__(self, program: Program, log: Path, on_death: Callable[[Died], None]) -> None:
        self.program, self.log = program, log
        self.deaths = 0
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The running process; None between a death and the next start."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and running else None

    async def start(self) -> None:
        """Starts the program and keeps it running; OSError if it cannot be started at all."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.program.name}")

    async def stop(self, grace_seconds: float) -> None:
        """Sends SIGTERM, then SIGKILL to the whole group after the grace period; returns when nothing is left."""
        self._stopping = True
        process, keeper = self._process, self._keeper
        if process and process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace_seconds)
            _kill_group(process.pid)
            await process.wait()
        if keeper:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    def log_tail(self) -> str:
        """The end of the log."""
        return tail(self.log)

    async def _keep(self) -> None:
        pause_seconds, began = PAUSE_SECONDS[0], time.monotonic()
        how = await self._ended()
        while not self._stopping:
            self.deaths += 1
            if time.monotonic() - began >= STEADY_SECONDS:
                pause_seconds = PAUSE_SECONDS[0]
            self._on_death(Died(self.program.name, how, pause_seconds, self.log_tail()))
            await asyncio.sleep(pause_seconds)
            pause_seconds, began = min(2 * pause_seconds, PAUSE_SECONDS[1]), time.monotonic()
            try:
                await self._spawn()
                how = await self._ended()
            except OSError as error:  # a limit of processes or files, a full disk: it may pass
                how = f"not started: {error.strerror}"

    async def _ended(self) -> str:
        """Waits until nothing of the program's group is left; returns how the program ended."""
        assert self._process
        status = await self._process.wait()
        _kill_group(self._process.pid)
        return _how(status)

    async def _spawn(self) -> None:
        """Starts a new process, unless the child is being stopped."""
        if self._stopping:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        command = (sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *self.program.command)
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.program.environment),
                start_new_session=True,
            )


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log; empty if there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as content:
        content.seek(max(0, content.seek(0, os.SEEK_END) - TAIL_BYTES))
        return "\n".join(content.read().decode(errors="replace").splitlines()[-lines:])


def _kill_group(pid: int) -> None:
    """Kills what is left of a program's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _how(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
