"""What a confined process cannot do, and what it still can; each in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.kit import confinement

MIB = 1 << 20


def ran(program: str) -> str:
    """What the program prints; it has left the network if the system allows that."""
    head = "import os, socket, mmap, sys\nfrom services.kit.confinement import *\n"
    done = subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def require_namespaces() -> None:
    if ran("print(leave_network())") != "True":
        pytest.skip("this system allows no network of one's own")


def test_without_a_network_nothing_on_this_machine_is_reached_and_the_loopback_is_ones_own(server: int) -> None:
    require_namespaces()
    assert (
        ran(
            "assert leave_network(loopback=True)\n"
            f"reached = socket.socket().connect_ex(('127.0.0.1', {server}))\n"
            "with socket.create_server(('127.0.0.1', 0)) as own:\n"
            "    socket.create_connection(own.getsockname()).close()\n"
            "print(reached != 0, os.getuid(), os.getgid())"
        )
        == f"True {os.getuid()} {os.getgid()}"
    )


def test_files_and_shared_memory_are_still_there_and_children_inherit_the_confinement(server: int) -> None:
    require_namespaces()
    assert (
        ran(
            "import subprocess, tempfile\n"
            "from multiprocessing.shared_memory import SharedMemory\n"
            "leave_network()\n"
            "with tempfile.NamedTemporaryFile() as file: file.write(b'x')\n"
            "shared = SharedMemory(create=True, size=4096); shared.close(); shared.unlink()\n"
            f"code = 'import socket; print(socket.socket().connect_ex((\"127.0.0.1\", {server})))'\n"
            "print(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() != '0')"
        )
        == "True"
    )


def test_memory_beyond_the_limit_is_an_error_and_reserved_addresses_do_not_count() -> None:
    assert (
        ran(
            f"assert limit_memory({512 * MIB})\n"
            f"mmap.mmap(-1, {8192 * MIB}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)\n"
            f"mmap.mmap(-1, {1024 * MIB}, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)\n"
            f"kept = bytearray({64 * MIB})\n"
            "try:\n"
            f"    bytearray({1024 * MIB})\n"
            "except MemoryError:\n"
            "    print('refused')"
        )
        == "refused"
    )


def test_the_memory_of_the_machine_bounds_that_of_the_container() -> None:
    assert 0 <= confinement.memory_limit() < confinement.physical_memory()
