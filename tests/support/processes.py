"""Processes to observe and to kill: found in /proc, killed by their id only."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether the process runs and is not a zombie."""
    return _stat(pid) is not None


def children(parent: int) -> list[int]:
    """The process's living children, the oldest first."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - only the names matter
    found = [(stat[1], pid) for pid in pids if (stat := _stat(pid)) and stat[0] == parent]
    return [pid for _, pid in sorted(found)]


def descendants(pid: int) -> list[int]:
    """The process's living children, theirs, and so on."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


def command_line(pid: int) -> str:
    """The process's command line; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def training_children(worker: int) -> list[int]:
    """A worker's training children, the oldest first, once they have been started."""
    return [pid for pid in children(worker) if "services.trainer.engine" in command_line(pid)]


def training_child(worker: int) -> int | None:
    """A worker's oldest training child: the one that trains, as spares are started later."""
    return next(iter(training_children(worker)), None)


def kill(pid: int) -> None:
    """Sends SIGKILL to a process that must be alive."""
    assert is_alive(pid), f"process {pid} was dead before it was killed"
    os.kill(pid, signal.SIGKILL)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal, which would end it otherwise; also if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def _stat(pid: int) -> tuple[int, int] | None:
    """(parent, start time in ticks) of a living process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))
