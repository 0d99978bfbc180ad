"""What a process gives up before it reads callers' data: the network, and memory beyond a limit. Linux only."""

import ctypes
import fcntl
import os
import resource
import socket
import struct
from contextlib import suppress
from pathlib import Path

_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000  # linux/sched.h
_SET_FLAGS, _UP = 0x8914, 1  # linux/sockios.h, linux/if.h
_LOOPBACK = struct.pack("16sh", b"lo", _UP)
CGROUP = Path("/sys/fs/cgroup")


def leave_network(*, loopback: bool = False) -> bool:
    """Moves into a network of its own, without interfaces or with a loopback that nobody else has; False where the
    system does not allow it. Only while the process has one thread; what is started from then on inherits it.
    """
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except AttributeError:
        return False
    user, group = os.geteuid(), os.getegid()
    if unshare(_NEW_USER | _NEW_NETWORK) == 0:
        _keep_identity(user, group)
    elif unshare(_NEW_NETWORK) != 0:
        return False
    if loopback:
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SET_FLAGS, _LOOPBACK)
    return True


def _keep_identity(user: int, group: int) -> None:
    """The process is called what it was, not nobody; without it, nothing but names changes."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with suppress(OSError):
            Path("/proc/self", name).write_text(text)


def limit_memory(size_bytes: int) -> bool:
    """Lets the process allocate no more; beyond it, allocations fail, which is an error that can be handled.

    The limit is on what it may write to and does not share, so that neither libraries nor the address space that CUDA
    reserves count.
    """
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, size_bytes))
    except (OSError, ValueError):
        return False
    return True


def memory_limit() -> int:
    """What the container may use, by the files of cgroup v2 or v1; 0 without a limit."""
    limit = cgroup_number("memory.max") or cgroup_number("memory/memory.limit_in_bytes")
    return limit if 0 < limit < physical_memory() else 0


def physical_memory() -> int:
    """The machine's, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_number(name: str) -> int:
    """The number in a file of the cgroup; 0 if there is none, as for `max`."""
    try:
        return int((CGROUP / name).read_text())
    except (OSError, ValueError):
        return 0


def has_gpu() -> bool:
    """Whether a driver of NVIDIA's or AMD's has devices here."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))
