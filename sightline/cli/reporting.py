"""What a person reads when a command fails, and the exit code that a script gets.

0        success                      2        wrong usage: the message says what is expected
1        a problem on this machine    3 .. 16  the number of the gRPC status code: 3 INVALID_ARGUMENT,
130      Ctrl-C                                5 NOT_FOUND, 6 ALREADY_EXISTS, 9 FAILED_PRECONDITION,
                                               14 UNAVAILABLE, ... (of the error of a resource that ended as FAILED)
"""

import errno
from typing import Any

import grpc
from rich.console import Console
from rich.markup import escape

from sightline.client.errors import AddressError, CredentialsError, SightlineError, Unreachable

MAX_FAULTS = 10
WRONG_USAGE = 2
FULL = (errno.ENOSPC, errno.EDQUOT)


class CommandError(SightlineError):
    """A command cannot continue because of a problem on this machine."""

    code = 1


class UsageError(CommandError):
    """The command was used wrongly."""

    code = WRONG_USAGE


def told_of_file(error: OSError) -> CommandError:
    """A file that cannot be read or written, or a full disk, in words; raises the error if it is about neither."""
    if error.errno in FULL:  # writing to an open file names none
        problem = f"{error.filename or 'the output'} cannot be written: {error.strerror}"
        return CommandError(problem, fix="make room on the disk, then repeat")
    if error.filename is None:  # a broken pipe
        raise error
    problem = f"{error.filename} cannot be read or written: {error.strerror}"
    return CommandError(problem, fix="correct the path, or its permissions")


def not_utf8(error: UnicodeEncodeError) -> UsageError:
    """A name or text that cannot be sent to a service, in words."""
    return UsageError(f"{error.object!a} is not valid UTF-8", fix="use UTF-8 in names and texts")


def report(error: SightlineError, console: Console) -> int:
    """Prints what is wrong and what to do; returns the exit code."""
    if error.details.resource:
        console.print(f"[bold red]{escape(error.details.resource)} failed[/]", soft_wrap=True)
    if error.details.code and not isinstance(error, Unreachable):
        code_name = _code_name(error.code)
        head = f"{error.reason} ({code_name})" if error.details.reason else code_name
        console.print(f"[bold red]error:[/] [bold]{escape(head)}[/]", soft_wrap=True)
        console.print(f"  {escape(error.message)}", soft_wrap=True)
    else:
        console.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
    for line in _first(error.details.faults):
        console.print(f"  [dim]•[/] {escape(line)}", soft_wrap=True)
    if error.fix:
        console.print(f"[bold green]fix:[/] {escape(error.fix)}", soft_wrap=True)
    return WRONG_USAGE if isinstance(error, AddressError | CredentialsError) else error.code or 1


def _first(faults: tuple[str, ...]) -> tuple[str, ...]:
    more = (f"and {len(faults) - MAX_FAULTS} more",) if len(faults) > MAX_FAULTS else ()
    return faults[:MAX_FAULTS] + more


def _code_name(code: int) -> str:
    by_number: dict[Any, str] = {known.value[0]: known.name for known in grpc.StatusCode}
    return by_number.get(code, f"code {code}")
