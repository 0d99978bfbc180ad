"""What a stack claims on this machine while it runs: its folder and its ports."""

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from sightline.local import signing
from sightline.local.ports import free_ports, is_free
from sightline.text import shown

PORTS_SECONDS = 3.0  # children of a killed stack may take a moment to release their ports
POLL_SECONDS = 0.1
STORE = "store"
FOLDERS = frozenset({"nats", STORE, "logs", "audit", "cache", "work", signing.FOLDER})


class StackError(Exception):
    """The suite cannot run here; the message says why and what to do."""


def lock_folder(data: Path) -> IO[str]:
    """Locks the folder for this process until the file is closed.

    StackError if another process holds the lock, or if the folder's path is not UTF-8, as messages about files are.
    """
    try:
        str(data).encode()
    except UnicodeEncodeError:
        raise StackError(f"the path {shown(str(data))} is not UTF-8; choose another folder with --data") from None
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.fdopen(os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise StackError(
            f"a suite is already running on {data} (process {holder}); stop it, or choose another folder with --data"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def service_ports(base_port: int, services: Sequence[str]) -> list[int]:
    """Consecutive ports from `base_port` on, or free ones if it is 0; StackError that names those in use."""
    if not base_port:
        return free_ports(len(services))
    ports = {base_port + number: name for number, name in enumerate(services)}
    deadline = time.monotonic() + PORTS_SECONDS
    while busy := [port for port in ports if not is_free(port)]:
        if time.monotonic() > deadline:
            listed = ", ".join(f"{port} ({ports[port]})" for port in busy)
            raise StackError(f"already in use: port {listed}; choose other ports with --base-port")
        time.sleep(POLL_SECONDS)
    return list(ports)


def metrics_ports(first: int | None, processes: Sequence[str]) -> dict[str, int]:
    """A port for each process: consecutive from `first` on, free ones if it is 0, none if it is None."""
    if first is None:
        return {}
    ports = range(first, first + len(processes)) if first else free_ports(len(processes))
    return dict(zip(processes, ports, strict=True))


def nats_port(data: Path) -> int:
    """The port that the folder's nats-server used before, if it is free; otherwise a new one, which is remembered."""
    file = data / "nats" / "port"
    with contextlib.suppress(OSError, ValueError):
        port = int(file.read_text())
        if is_free(port):
            return port
    port = free_ports(1)[0]
    write(file, f"{port}\n")
    return port


def make_private(data: Path, *, with_store: bool) -> None:
    """Makes the folders of a suite, and closes them to other users of this machine."""
    for name in FOLDERS if with_store else FOLDERS - {STORE}:
        (data / name).mkdir(mode=0o700, exist_ok=True)
        (data / name).chmod(0o700)


def write(file: Path, text: str) -> None:
    """Writes the file, making its folder if necessary; others cannot read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:  # noqa: PTH123 - a new file's mode
        target.write(text)
