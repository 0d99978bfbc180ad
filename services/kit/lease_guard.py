"""Guards work on a record by its lease: one worker at a time, fenced by the lease's epoch."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from services.kit.errors import LeaseLost, RecordNotFound
from services.kit.leases import Lease
from services.kit.paging import Named
from services.kit.records import Table, Versioned

R = TypeVar("R", bound=Named)


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
