"""Keeps a process to the files that it needs, by Landlock (Linux 5.13 or later), which takes no rights to use."""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

# linux/landlock.h and linux/prctl.h; all architectures share the numbers of these system calls.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH, _NO_NEW_PRIVILEGES = 1, 1, 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_MAKE_DEVICES = 1 << 6 | 1 << 11
_RIGHTS = 13, 14, 15, 15, 16  # how many there are of files in versions 1, 2, ...; later versions have as many
_TCP, _TCP_SINCE = 0b11, 4  # to bind and to connect
_OUTSIDE, _OUTSIDE_SINCE = 0b11, 6  # abstract sockets of other processes, and signals to them

# What libraries read and write unasked. Of /proc, a process so kept sees of others neither memory nor environment.
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/proc", "/sys", "/dev/zero", "/dev/random", "/dev/urandom"),
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/mime.types"),
    *("/etc/group", "/etc/nsswitch.conf", "/etc/passwd"),
)
SYSTEM_WRITABLE = "/dev/null", "/dev/shm", "/proc/self"  # noqa: S108 - a folder in memory


def keep_to(readable: Iterable[Path | str], writable: Iterable[Path | str], *, network: bool = True) -> bool:
    """Lets the process open only these files, and what is below these folders, besides Python's and the system's; not
    even the superuser opens others. Without `network`, it uses no TCP either, where the system can forbid that.

    It also loses the right to send signals to other processes and to read their memory. Files that are open stay so;
    paths that do not exist are left out. Only while the process has one thread; what is started from then on inherits
    it. False where the system does not have Landlock; then nothing has changed.
    """
    if not (version := supported()):
        return False
    rights = (1 << _RIGHTS[min(version, len(_RIGHTS)) - 1]) - 1
    tcp = _TCP if version >= _TCP_SINCE and not network else 0
    outside = _OUTSIDE if version >= _OUTSIDE_SINCE else 0
    attributes = struct.pack("=QQQ", rights, tcp, outside)  # a version ignores what it does not know if it is 0
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in (*SYSTEM, *_python(), *readable):
            _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_FOLDER)
        for path in (*SYSTEM_WRITABLE, *writable):
            _allow(ruleset, path, rights & ~(_EXECUTE | _MAKE_DEVICES))
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, ruleset, 0)
    except OSError:
        return False
    finally:
        os.close(ruleset)
    return True


def supported() -> int:
    """The version of Landlock that the system has; 0 without it."""
    if sys.platform != "linux":
        return 0
    try:
        return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def _python() -> list[str]:
    """Where modules come from, except the current folder, which may be anything; also where links in these lead."""
    packages = [Path(spec.origin).parent for spec in map(find_spec, ("services", "sightline")) if spec and spec.origin]
    path = [entry for entry in sys.path if entry and Path(entry) != Path.cwd()]
    links = [target for entry in path for target in _targets(entry)]
    return [sys.prefix, sys.base_prefix, *map(str, packages), *path, *links]


def _targets(folder: str) -> Iterator[str]:
    """Where its packages are, as far as they, or their files, are links, as some installers make them."""
    if not Path(folder).is_dir():
        return
    for package in os.scandir(folder):
        if package.is_symlink():
            yield os.path.realpath(package)
        elif package.is_dir() and (files := [file for file in os.scandir(package) if file.is_symlink()]):
            yield str(Path(os.path.realpath(files[0])).parent)


def _allow(ruleset: int, path: Path | str, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is not there, or the process has no right to it
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, file), 0)
    finally:
        os.close(file)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """The result of a system call; OSError."""
    system = ctypes.CDLL(None, use_errno=True).syscall
    done = system(ctypes.c_long(number), *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done
