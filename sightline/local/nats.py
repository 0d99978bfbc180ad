"""The nats-server of one machine: found, configured, and asked whether it is there."""

import asyncio
import contextlib
import re
import shutil
import subprocess
from pathlib import Path

SYNC_ALWAYS_SINCE = (2, 10)
_ELSEWHERE = "/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/bin"  # where distributions put servers, off PATH or not


class NatsMissing(Exception):
    """There is no nats-server; the message says how to install it."""


def find() -> str:
    """The program's path; NatsMissing if there is none."""
    found = shutil.which("nats-server") or shutil.which("nats-server", path=_ELSEWHERE)
    if found is None:
        raise NatsMissing(
            "nats-server is not installed, and Sightline keeps its records and its queue in it.\n"
            "  Debian or Ubuntu:  sudo apt-get install nats-server\n"
            "  macOS:             brew install nats-server\n"
            "  elsewhere:         put the program from nats.io into a folder of PATH"
        )
    return found


def version(program: str) -> tuple[int, ...]:
    """The server's version, `(2, 9, 10)`; empty if it does not say."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", said)
    return tuple(int(part) for part in match.groups()) if match else ()


def configuration(port: int, store: Path, server_version: tuple[int, ...]) -> str:
    """For a server that only this machine reaches, whose records outlive it.

    A server that knows `sync_interval` writes each record to the disk before it confirms it; an older one refuses to
    start with the word, and may lose its last two minutes when the power fails.
    """
    sync = "  sync_interval: always\n" if server_version[:2] >= SYNC_ALWAYS_SINCE else ""
    return f'listen: "127.0.0.1:{port}"\njetstream {{\n  store_dir: "{store}"\n{sync}}}\n'


async def greets(port: int) -> bool:
    """Whether the server takes clients: it speaks first, and says INFO."""
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
