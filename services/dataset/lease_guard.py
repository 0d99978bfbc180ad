"""Guards a dataset's work with a lease: one worker at a time, fenced by the lease's epoch, renewed while it works."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta

from services.dataset.domain import DatasetRecord
from services.kit.clock import Clock
from services.kit.errors import LeaseLost, RecordNotFound, Unavailable
from services.kit.records import Table

Change = Callable[[DatasetRecord], DatasetRecord]


class LeaseGuard:
    """Writes a dataset's record while this worker has the lease."""

    def __init__(self, table: Table[DatasetRecord], record: DatasetRecord, clock: Clock, ttl: timedelta) -> None:
        self._table = table
        self._clock = clock
        self._ttl = ttl
        self.record = record

    async def write(self, decide: Change) -> DatasetRecord:
        """Applies the change; LeaseLost, without a write, if the dataset was taken over, deleted or created again."""

        def guarded(now: DatasetRecord) -> DatasetRecord:
            held = self.record
            if (now.uid, now.lease.epoch, now.generation) != (held.uid, held.lease.epoch, held.generation):
                raise LeaseLost(name=held.name, epoch=held.lease.epoch)
            return decide(now)

        try:
            written = await self._table.change(self.record.name, guarded)
        except RecordNotFound:
            raise LeaseLost(name=self.record.name, epoch=self.record.lease.epoch) from None
        return written.value

    async def renew(self) -> None:
        """Extends the lease."""
        await self.write(lambda now: replace(now, lease=now.lease.renewed(self._clock.now(), self._ttl)))

    async def delete(self) -> None:
        """Deletes the record; LeaseLost if this worker no longer has the lease."""
        await self.renew()
        present = await self._table.get(self.record.name)
        await self._table.delete(self.record.name, present.etag)

    async def release(self) -> None:
        """Releases the lease, whatever the dataset's state; another holder's lease is left alone."""

        def released(now: DatasetRecord) -> DatasetRecord:
            same = (now.uid, now.lease.epoch) == (self.record.uid, self.record.lease.epoch)
            return replace(now, lease=now.lease.released()) if same and now.lease.holder else now

        try:
            await self._table.change(self.record.name, released)
        except RecordNotFound:
            return


@asynccontextmanager
async def leased(
    table: Table[DatasetRecord], name: str, holder: str, clock: Clock, ttl: timedelta
) -> AsyncGenerator[LeaseGuard]:
    """Takes the lease for the block, and renews it while the block runs.

    Raises LeaseLost if another worker holds the lease or takes it during the block, which is then cancelled;
    RecordNotFound if there is no such dataset, WrongState if nothing is due for it. The lease is released after the
    block; if the process is killed, it expires.
    """
    taken = await table.change(name, lambda record: record.taken(holder, clock.now(), ttl))
    guard = LeaseGuard(table, taken.value, clock, ttl)
    owner = asyncio.current_task()
    lost: list[LeaseLost] = []

    async def keep() -> None:
        try:
            while True:
                await asyncio.sleep(ttl.total_seconds() / 4)  # real time: with a manual clock this would spin
                with suppress(Unavailable):  # the next write notices if the outage outlasts the lease
                    await guard.renew()
        except LeaseLost as error:
            lost.append(error)
            if owner:
                owner.cancel()

    keeper = asyncio.create_task(keep(), name=f"lease of {name}")
    try:
        yield guard
    except asyncio.CancelledError:
        if lost and owner and not owner.uncancel():
            raise lost[0] from None
        raise
    finally:
        keeper.cancel()
        await guard.release()
