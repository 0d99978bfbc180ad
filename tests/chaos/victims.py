"""Processes to harm: found by /proc, harmed by their id alone."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether the process runs, and is no zombie."""
    return _stat(pid) is not None


def is_child_at_work(pid: int) -> bool:
    """Whether the process is a training child."""
    with suppress(OSError):
        return b"services.trainer.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def training_child(worker: int) -> int | None:
    """The training child of a worker that has been there longest: the one at work, as spares are started later."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - many names, few matter
    found = [(stat[1], pid) for pid in pids if (stat := _stat(pid)) and stat[0] == worker and is_child_at_work(pid)]
    return min(found)[1] if found else None


def kill(pid: int) -> None:
    """SIGKILL to a process that must be alive."""
    assert is_alive(pid), f"process {pid} was dead before it was killed"
    os.kill(pid, signal.SIGKILL)


def _stat(pid: int) -> tuple[int, int] | None:
    """(parent, start time in ticks) of a living process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))
