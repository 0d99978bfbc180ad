"""Downloads for a training child that has given up network or files: a helper that has not fetches published weights.

It is forked before the child gives them up, and before that has threads. It reads urls from a socket, refuses those
that the catalogue does not have, and sends each file back as a descriptor. It ends with the child.
"""

import ctypes
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import BinaryIO, NoReturn

from services.kit import pulse
from services.vision.packs import open_url

PR_SET_PDEATHSIG = 1  # linux/prctl.h
SILENT_SECONDS = 60.0  # without a chunk; longer than the helper waits for a site
MOST_BYTES = 2000  # of a message
_CHUNK_BYTES = 1 << 20
_PROGRESS, _FILE, _PROBLEM = b".", b"=", b"!"


class Fetcher:
    """The helper as the child sees it; `open` is an Opener of `services.vision.weights`."""

    def __init__(self) -> None:
        """Forks the helper; the process must have one thread."""
        self._connection, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = threading.Lock()
        if os.fork() == 0:
            try:
                _help(there)
            finally:
                os._exit(1)
        there.close()
        self._connection.settimeout(SILENT_SECONDS)

    def open(self, url: str) -> BinaryIO:
        """The file at the url, once it is here; OSError if the site does not provide it, or the helper is gone."""
        with self._turn:
            self._connection.send(url.encode())
            while True:
                message, files, _, _ = socket.recv_fds(self._connection, MOST_BYTES, 1)
                pulse.beat()
                if message[:1] == _FILE:
                    return os.fdopen(files[0], "rb")
                if message[:1] != _PROGRESS:
                    raise OSError(message[1:].decode(errors="replace") or "the process that downloads has ended")


def _help(connection: socket.socket) -> NoReturn:
    """Serves until the child closes the connection, which its end does."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):  # the worker takes the end of the child's pipes for its end
        os.dup2(nothing, standard)
    kept = connection.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, 1 << 10)
    while url := connection.recv(MOST_BYTES).decode(errors="replace"):
        try:
            _fetch(url, connection)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the child goes on without these weights
            connection.send((_PROBLEM + f"{fault}".encode())[:MOST_BYTES])
    os._exit(0)


def _fetch(url: str, connection: socket.socket) -> None:
    """Sends the file; OSError, ValueError or http.client.HTTPException."""
    from services.vision.catalogue import NETWORKS  # noqa: PLC0415 - most children download nothing

    known = {row.download.url for rows in NETWORKS.values() for row in rows.values() if row.download}
    if url not in known:
        raise ValueError(f"{url} is not published weights of the catalogue")
    with tempfile.TemporaryFile() as file, open_url(url) as response:
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            connection.send(_PROGRESS)
        file.seek(0)
        socket.send_fds(connection, [_FILE], [file.fileno()])


_installed: Fetcher | None = None  # of this process, as its network is


def install() -> None:
    """Has this process download by a helper from now on; before it gives up what that needs."""
    global _installed  # noqa: PLW0603 - a process has one network
    _installed = Fetcher()


def opener() -> Callable[[str], AbstractContextManager[BinaryIO]] | None:
    """The helper's, for a process that has one."""
    return _installed.open if _installed else None
