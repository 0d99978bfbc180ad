"""A view: all resources of one type, kept in memory by watching the records."""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from services.kit import heap
from services.kit.clock import Clock
from services.kit.errors import RecordUnusable, Unavailable
from services.kit.log import Log
from services.kit.records import Deleted, Record, Records, Synced, Versioned, decoded

T = TypeVar("T")
FOLLOW_SECONDS = 60.0  # between checks of a resource that does not change

_log = Log(__name__)


class View(Generic[T]):
    """What List, Watch and the reconcilers read.

    `run` keeps it current until cancelled. When the store is lost, the view keeps its last state and resynchronises
    from scratch when the store is back. To read its own writes, a reader waits with `caught_up(revision)`. Until the
    first sync reads raise Unavailable: a partial view is never shown as complete. A record that cannot be read is
    logged and left out, so that it affects no other resource; `unreadable` tells whoever acts on what is missing.
    """

    def __init__(self, records: Records, type_: type[T], *collections: str, retry_seconds: float = 0.5) -> None:
        self._records = records
        self._type = type_
        self._collections = collections
        self._retry_seconds = retry_seconds
        self._items: dict[str, Versioned[T]] = {}
        self._names: list[str] = []  # of the items, in order
        self._ordered: list[Versioned[T]] | None = None  # the items in that order; None: neither is current
        self._revision = 0
        self._version = 0
        self._problem = ""  # that was logged, until the next sync
        self.unreadable: frozenset[str] = frozenset()  # names of the records that were left out
        self._synced = asyncio.Event()
        self._moved = asyncio.Condition()

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            try:
                await self._watch()
            except Unavailable as error:
                self._tell_problem(error.message)
                await asyncio.sleep(self._retry_seconds)

    def _tell_problem(self, problem: str) -> None:
        """Logs it once, however often the watch is tried again."""
        if problem != self._problem:
            self._problem = problem
            _log.warning("records_unavailable", collection="/".join(self._collections), problem=problem)

    async def _watch(self) -> None:
        changes = self._records.watch(*self._collections)
        items, unreadable, revision = dict[str, Versioned[T]](), set[str](), 0
        with heap.loading():
            async for change in changes:
                revision = max(revision, change.revision)
                if isinstance(change, Synced):
                    break
                self._apply(change, items, unreadable)
            else:
                return
        self._items, self._ordered, self._problem = items, None, ""
        self._synced.set()
        await self._tell(unreadable, revision)
        async for change in changes:
            if not isinstance(change, Synced):
                was_there = change.key in items
                self._apply(change, items, unreadable)
                self._order(change.key, was_there=was_there)
            await self._tell(unreadable, change.revision)

    def _apply(self, change: Record | Deleted, items: dict[str, Versioned[T]], unreadable: set[str]) -> None:
        found = self._read(change) if isinstance(change, Record) else None
        if found is not None:
            items[change.key] = found
        else:
            items.pop(change.key, None)
        (unreadable.add if isinstance(change, Record) and found is None else unreadable.discard)(change.key)

    def _order(self, key: str, *, was_there: bool) -> None:
        """Puts a changed item in its place in the order, which must be made again after one has come or gone."""
        found = self._items.get(key)
        if self._ordered is not None and was_there and found is not None:
            self._ordered[bisect_left(self._names, key)] = found
        else:
            self._ordered = None

    async def _tell(self, unreadable: set[str], revision: int) -> None:
        """Wakes whoever waits for a change."""
        self.unreadable = frozenset(unreadable)
        async with self._moved:
            self._revision = max(self._revision, revision)
            self._version += 1
            self._moved.notify_all()

    def _read(self, record: Record) -> Versioned[T] | None:
        try:
            return decoded(record, self._type)
        except RecordUnusable as error:
            _log.error("record_unusable", error, name=record.key, revision=record.revision)
            return None

    async def synced(self) -> None:
        """Returns once the view holds everything that existed when it started."""
        await self._synced.wait()

    @property
    def is_synced(self) -> bool:
        """Whether `synced` would return at once."""
        return self._synced.is_set()

    async def caught_up(self, revision: int, timeout_seconds: float = 5) -> None:
        """Returns once the view has seen the revision, which must belong to one of its keys; Unavailable on timeout."""
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: self._revision >= revision)
        except TimeoutError:
            raise Unavailable(
                what="The view of " + "/".join(self._collections), problem="it has not caught up"
            ) from None

    def find(self, name: str) -> Versioned[T] | None:
        """The resource as last seen, or None."""
        return self._seen().get(name)

    def all(self, prefix: str = "") -> list[Versioned[T]]:
        """Every resource whose name starts with the prefix, in the order of names."""
        items = self._seen()
        if self._ordered is None:
            self._names = sorted(items)
            self._ordered = [items[name] for name in self._names]
        first, end = bisect_left(self._names, prefix), bisect_left(self._names, prefix + "\x7f")  # above all names
        return self._ordered[first:end]

    def _seen(self) -> dict[str, Versioned[T]]:
        if not self._synced.is_set():
            raise Unavailable(what="The view of " + "/".join(self._collections), problem="it is not complete yet")
        return self._items

    @property
    def version(self) -> int:
        """Rises with every change of the view; for `changed`."""
        return self._version

    async def follow(self, name: str, found: Versioned[T]) -> AsyncGenerator[Versioned[T]]:
        """The resource as found, then after every change (intermediate states may be skipped); ends once it is gone."""
        await self.caught_up(found.revision)
        while True:
            yield found
            while (present := self.find(name)) and present.revision <= found.revision:
                await self.changed(FOLLOW_SECONDS)
            if present is None:
                return
            found = present

    async def changed(self, timeout_seconds: float, since: int | None = None) -> None:
        """Returns after the next change of any resource in the view, or after the timeout.

        Given the `version` from before the caller read the view, a change since then counts too.
        """
        seen = self._version if since is None else since
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: self._version > seen)
        except TimeoutError:
            return

    def pauses(self, clock: Clock, least_seconds: float, most_seconds: float) -> Callable[[], Awaitable[None]]:
        """The pauses of a loop over the view: each ends soon after a change, also one during the pass before it."""
        seen = self._version

        async def pause() -> None:
            nonlocal seen
            await clock.sleep(least_seconds)
            await self.changed(most_seconds, seen)
            seen = self._version

        return pause


class Changes:
    """Waits for changes of some views; one that happens between two waits, or before the first, counts too."""

    def __init__(self, *views: View[Any]) -> None:
        self._views = views
        self._seen = [view.version for view in views]

    async def wait(self, timeout_seconds: float) -> None:
        """Returns once any view has changed, or after the timeout."""
        pairs = zip(self._views, self._seen, strict=True)
        waits = [asyncio.ensure_future(view.changed(timeout_seconds, version)) for view, version in pairs]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._seen = [view.version for view in self._views]
