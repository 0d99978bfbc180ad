"""Fair turns: callers take turns at a bounded number of places, and large work shares a bounded number of bytes."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.kit.telemetry import Telemetry
from services.vision.decode_metrics import ADMITTED, WAITING


@dataclass(frozen=True, slots=True)
class Places:
    """How much may run at once."""

    total: int
    per_caller: int
    budget_bytes: int  # of work that is not small, together
    small_bytes: int  # work up to this size takes a place only


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    size_bytes: int
    turn: "asyncio.Future[None]"


class Turns:
    """Whose turn it is.

    Law: callers with waiting work take turns, whoever came first and however much one of them has; a caller's own work
    keeps its order. Small work never waits for bytes. Large work passes no other large work that waits for bytes, so
    that it gets them in the end.
    """

    def __init__(self, places: Places, telemetry: Telemetry) -> None:
        self._places = places
        self._telemetry = telemetry
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()  # the first caller's turn is next
        self._running: Counter[str] = Counter()
        self._admitted_bytes = 0
        self._note()

    @asynccontextmanager
    async def turn(self, caller: str, size_bytes: int) -> AsyncGenerator[None]:
        """Waits for a turn and holds it for the block. `size_bytes` must be within the budget, or small."""
        waiting = _Waiting(size_bytes, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(caller, deque()).append(waiting)
        self._admit()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled():  # admitted at the same moment
                self._leave(caller, size_bytes)
            else:
                self._forget(caller, waiting)
            raise
        try:
            yield
        finally:
            self._leave(caller, size_bytes)

    def _admit(self) -> None:
        while (caller := self._next()) is not None:
            waiting = self._waiting[caller][0]
            self._remove(caller, waiting)
            if waiting.turn.done():  # its task was cancelled, and has not run since
                continue
            if caller in self._waiting:
                self._waiting.move_to_end(caller)
            self._running[caller] += 1
            self._admitted_bytes += self._counted(waiting.size_bytes)
            waiting.turn.set_result(None)
        self._note()

    def _next(self) -> str | None:
        """The first caller in turn whose next piece of work may run."""
        if self._running.total() >= self._places.total:
            return None
        short = False  # of bytes, for someone whose turn was earlier
        for caller, queue in self._waiting.items():
            if self._running[caller] >= self._places.per_caller:
                continue
            size_bytes = self._counted(queue[0].size_bytes)
            if not size_bytes or (not short and self._admitted_bytes + size_bytes <= self._places.budget_bytes):
                return caller
            short = True
        return None

    def _counted(self, size_bytes: int) -> int:
        return size_bytes if size_bytes > self._places.small_bytes else 0

    def _leave(self, caller: str, size_bytes: int) -> None:
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        self._admitted_bytes -= self._counted(size_bytes)
        self._admit()

    def _forget(self, caller: str, waiting: _Waiting) -> None:
        if waiting in self._waiting.get(caller, ()):
            self._remove(caller, waiting)
            self._admit()  # what it kept from running may run

    def _remove(self, caller: str, waiting: _Waiting) -> None:
        self._waiting[caller].remove(waiting)
        if not self._waiting[caller]:
            del self._waiting[caller]

    def _note(self) -> None:
        self._telemetry.set(WAITING, sum(map(len, self._waiting.values())))
        self._telemetry.set(ADMITTED, self._admitted_bytes)
