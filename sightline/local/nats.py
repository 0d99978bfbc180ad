"""The local nats-server: finding it, what its version guarantees, its configuration, and its readiness."""

import asyncio
import contextlib
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

OLDEST = (2, 9)  # Debian 12's; everything works on it, but a power failure may lose acknowledged records
SYNC_ALWAYS_SINCE = (2, 10)  # `sync_interval: always`
SYNCED_COMPACTION_SINCE = (2, 15, 1)  # before, files that compaction had rewritten were not all flushed
RELAXED_SYNC_SINCE = (2, 15)  # of replicated streams, only the Raft log is flushed at each write
_SERVER_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/bin"  # where servers are, though not always on PATH


class NatsMissing(Exception):
    """There is no nats-server that can be used; the message says how to install it."""


def find() -> str:
    """The program's path; NatsMissing if there is none, or only older ones than OLDEST.

    The one beside this Python, which the extra `local` installs, precedes the system's: it is the version that
    Sightline is tested with.
    """
    problem = "nats-server is not installed"
    for folders in (sysconfig.get_path("scripts"), None, _SERVER_PATH):  # None is PATH
        program = shutil.which("nats-server", path=folders)
        if program is None:
            continue
        found = version(program)
        if found[:2] >= OLDEST:
            return program
        problem = f"{program} is nats-server {dotted(found) or 'of an unknown version'}, older than {dotted(OLDEST)}"
    raise NatsMissing(
        f"{problem}; Sightline keeps its records and its queue in it.\n"
        "  with pip:   pip install 'sightline[local]'\n"
        "  otherwise:  put the program from nats.io into a folder on PATH"
    )


def version(program: str) -> tuple[int, ...]:
    """The server's version, such as `(2, 9, 10)`; empty if unknown."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", output)
    return tuple(int(part) for part in match.groups()) if match else ()


def dotted(parts: tuple[int, ...]) -> str:
    """The version as it is written."""
    return ".".join(map(str, parts))


def command(server: str, settings: Path, store: Path) -> tuple[str, ...]:
    """The command of a server with a configuration file and a folder for JetStream, which may have any name."""
    return server, "-c", str(settings), "--store_dir", str(store)


def configuration(port: int, server_version: tuple[int, ...], authorization: str = "") -> str:
    """The configuration of a server on loopback, with JetStream, and a block that names its users.

    With `sync_interval`, the server writes each record to disk before it acknowledges it. An older server does not
    start with this setting, and may lose the last two minutes after a power failure.
    """
    sync = "sync_interval: always" if server_version[:2] >= SYNC_ALWAYS_SINCE else ""
    return f'listen: "127.0.0.1:{port}"\njetstream {{ {sync} }}\n{authorization}'


async def greets(port: int) -> bool:
    """Whether the server accepts clients, which it greets with INFO."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return (await reader.read(5)) == b"INFO "
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
