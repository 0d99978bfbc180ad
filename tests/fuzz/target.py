"""What a fuzz target is, and how its executions are run and judged."""

from __future__ import annotations

import faulthandler
import json
import resource
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias

from services.kit.errors import SightlineError

HANG_SECONDS = 60.0  # one execution takes milliseconds
MOST_MIB = 512  # that one execution may add to the peak of memory, and that all may keep
WARM = 50  # executions after which memory counts: modules and pools have been loaded

Execute: TypeAlias = Callable[[Random], Awaitable[str]]  # one input; returns what was made of it, raises what is a bug
Opened: TypeAlias = Callable[[Path], AbstractAsyncContextManager[Execute]]
TARGETS: dict[str, Opened] = {}


class Broken(Exception):
    """An execution did what none may: the message has all that is needed to repeat it."""


def target(opened: Callable[[Path], AsyncGenerator[Execute]]) -> Opened:
    """Registers a target under its function's name; it gets an empty folder."""
    TARGETS[opened.__name__] = asynccontextmanager(opened)
    return TARGETS[opened.__name__]


def outcome_of(parse: Callable[[], object], *named: type[Exception]) -> str:
    """`accepted`, or the name of the error if it is a SightlineError or among those that the parser's law names."""
    try:
        parse()
    except (SightlineError, *named) as error:
        return type(error).__name__
    return "accepted"


@dataclass
class Result:
    """What came of a target."""

    executions: int = 0
    seconds: float = 0.0
    kept_mib: int = 0  # resident memory that the executions added for good
    outcomes: Counter[str] = field(default_factory=Counter[str])

    def as_json(self) -> str:
        """A line for the process that started this one."""
        return json.dumps({**self.__dict__, "seconds": round(self.seconds, 1)})


async def run(
    name: str, folder: Path, seed: int, executions: int, first: int = 0, *, watch: Path | None = None
) -> Result:
    """Runs the executions `first`, `first + 1`, ... of a seed; Broken for the first that breaks a promise.

    With `watch`, a file that always has the number of the present execution, one that hangs ends this process.
    """
    result, began, told, peak, resident = Result(), time.monotonic(), 0.0, 0, 0
    async with TARGETS[name](folder) as execute:
        for number in range(first, first + executions):
            if watch and time.monotonic() - told > 1:
                told = time.monotonic()
                _tell(watch, number)
            try:
                result.outcomes[await execute(Random(f"{seed}/{name}/{number}"))] += 1
            except Exception as error:
                raise Broken(f"{name}, seed {seed}, execution {number}: {type(error).__name__}: {error}") from error
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if number >= first + WARM and now - peak > MOST_MIB << 10:
                raise Broken(f"{name}, seed {seed}, execution {number}: took {(now - peak) >> 10} MiB")
            peak = now
            resident = resident or (_resident() if number == first + WARM else 0)
    faulthandler.cancel_dump_traceback_later()
    result.executions, result.seconds = executions, time.monotonic() - began
    result.kept_mib = (_resident() - resident) >> 20 if resident else 0
    if result.kept_mib > MOST_MIB:
        raise Broken(f"{name}, seed {seed}: {executions} executions kept {result.kept_mib} MiB")
    return result


def _tell(watch: Path, number: int) -> None:
    """Says that this execution begins, and has HANG_SECONDS."""
    watch.write_text(str(number))
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
