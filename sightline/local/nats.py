"""The local nats-server: finding it, its configuration, and its readiness."""

import asyncio
import contextlib
import re
import shutil
import subprocess
from pathlib import Path

SYNC_ALWAYS_SINCE = (2, 10)
_SERVER_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/bin"  # where servers are, though not always on PATH


class NatsMissing(Exception):
    """There is no nats-server; the message says how to install it."""


def find() -> str:
    """The program's path; NatsMissing if there is none."""
    found = shutil.which("nats-server") or shutil.which("nats-server", path=_SERVER_PATH)
    if found is None:
        raise NatsMissing(
            "nats-server is not installed; Sightline keeps its records and its queue in it.\n"
            "  Debian or Ubuntu:  sudo apt-get install nats-server\n"
            "  macOS:             brew install nats-server\n"
            "  elsewhere:         put the program from nats.io into a folder on PATH"
        )
    return found


def version(program: str) -> tuple[int, ...]:
    """The server's version, such as `(2, 9, 10)`; empty if unknown."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", output)
    return tuple(int(part) for part in match.groups()) if match else ()


def configuration(port: int, store: Path, server_version: tuple[int, ...], authorization: str = "") -> str:
    """The configuration of a server on loopback, with JetStream stored in a folder, and a block that names its users.

    With `sync_interval`, the server writes each record to disk before it acknowledges it. An older server does not
    start with this setting, and may lose the last two minutes after a power failure.
    """
    sync = "  sync_interval: always\n" if server_version[:2] >= SYNC_ALWAYS_SINCE else ""
    return f'listen: "127.0.0.1:{port}"\njetstream {{\n  store_dir: "{store}"\n{sync}}}\n{authorization}'


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
