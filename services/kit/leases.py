"""Leases: who works on a record, until when, and under which epoch; and the guard of whoever has one.

A lease is part of the record that it protects, so one compare-and-set both fences a write and carries the holder's
report. The epoch increases by one each time the lease is taken; a holder whose epoch is no longer the record's has lost
the lease and must stop without another write.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, Protocol, Self, TypeVar

from services.kit.clock import Clock
from services.kit.errors import LeaseLost, RecordNotFound, Unavailable
from services.kit.paging import Named
from services.kit.records import Table, Versioned
from services.kit.tasks import alongside, repeat

R = TypeVar("R", bound=Named)


@dataclass(frozen=True, slots=True)
class Lease:
    """`holder` may write until `expires`, under `epoch`; free if `holder` is empty."""

    holder: str = ""
    epoch: int = 0
    expires: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether it is held at this moment."""
        return bool(self.holder) and self.expires is not None and now < self.expires

    def taken(self, holder: str, now: datetime, ttl: timedelta) -> "Lease":
        """The lease taken by `holder`, with a new epoch; LeaseLost while another holds it."""
        if self.is_live(now) and self.holder != holder:
            raise LeaseLost(name=self.holder, epoch=self.epoch)
        return Lease(holder, self.epoch + 1, now + ttl)

    def renewed(self, now: datetime, ttl: timedelta) -> "Lease":
        """The lease with a later expiry; the caller has checked the epoch."""
        return replace(self, expires=now + ttl)

    def released(self) -> "Lease":
        """Free at once; the epoch stays, so that the previous holder remains fenced."""
        return Lease("", self.epoch, None)


class LeaseGuard(Generic[R]):
    """Writes a record while this worker has its lease.

    Law: LeaseLost, without a write, once the lease is released or taken over, the record is gone, or its `fence` has
    another value. Writes take turns, so `record`, as last written, never goes back.
    """

    def __init__(
        self, table: Table[R], taken: R, lease: Callable[[R], Lease], fence: Callable[[R], object] = lambda _: None
    ) -> None:
        """`taken` is the record as it was written with this worker's lease."""
        self._table = table
        self._lease = lease
        self._fence = fence
        self._held = self._state(taken)
        self._turn = asyncio.Lock()
        self.record = taken

    def _state(self, record: R) -> tuple[str, int, object]:
        lease = self._lease(record)
        return lease.holder, lease.epoch, self._fence(record)

    async def write(self, decide: Callable[[R], R]) -> R:
        """Applies the change, and returns the record as written."""
        async with self._turn:
            self.record = (await self._change(decide)).value
            return self.record

    async def renew(self, decide: Callable[[R], R]) -> None:
        """Applies a change that extends the lease; does nothing if this worker has released it itself."""
        try:
            await self.write(decide)
        except LeaseLost:
            if self._lease(self.record).holder:
                raise

    async def delete(self) -> None:
        """Deletes the record."""
        async with self._turn:
            present = await self._change(lambda record: record)
            await self._table.delete(self.record.name, present.etag)

    async def _change(self, decide: Callable[[R], R]) -> Versioned[R]:
        lost = LeaseLost(name=self.record.name, epoch=self._held[1])

        def fenced(now: R) -> R:
            if self._state(now) != self._held:
                raise lost
            return decide(now)

        try:
            return await self._table.change(self.record.name, fenced)
        except RecordNotFound:
            raise lost from None


class Leasable(Named, Protocol):
    """A record with one lease."""

    @property
    def lease(self) -> Lease:
        """Who works on it."""
        ...

    @property
    def uid(self) -> str:
        """Tells it from others that had its name."""
        ...

    @property
    def generation(self) -> int:
        """Rises when work that has begun is no longer wanted."""
        ...

    def with_lease(self, lease: Lease) -> Self:
        """The same record with another lease."""
        ...

    def taken(self, holder: str, now: datetime, ttl: timedelta) -> Self:
        """The record with its lease taken; LeaseLost while another holds it, WrongState if nothing is due."""
        ...


L = TypeVar("L", bound=Leasable)


@asynccontextmanager
async def leased(
    table: Table[L], name: str, holder: str, clock: Clock, ttl: timedelta
) -> AsyncGenerator[LeaseGuard[L]]:
    """Takes the lease for the block, and renews it while the block runs.

    Raises LeaseLost if another worker holds the lease or takes it during the block, or if the record's generation
    changes, as by a deletion: the block is then cancelled. RecordNotFound if there is no such record, WrongState if
    nothing is due for it. The lease is released after the block; if the process is killed, it expires.
    """
    taken = (await table.change(name, lambda record: record.taken(holder, clock.now(), ttl))).value
    guard = LeaseGuard(table, taken, _lease_of, lambda record: (record.uid, record.generation))
    release = LeaseGuard(table, taken, _lease_of, lambda record: record.uid)  # whoever changed it waits for this

    async def keep() -> None:
        pause = partial(asyncio.sleep, ttl.total_seconds() / 4)  # real time: with a manual clock this would spin
        await pause()
        await repeat(lambda: guard.renew(renewed), pause, survives=Unavailable)  # the lease decides about an outage

    def renewed(record: L) -> L:
        return record.with_lease(record.lease.renewed(clock.now(), ttl))

    try:
        async with alongside(lease=keep()):
            yield guard
    finally:
        with suppress(LeaseLost):
            await release.write(lambda record: record.with_lease(record.lease.released()))


def _lease_of(record: Leasable) -> Lease:
    return record.lease
