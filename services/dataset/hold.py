"""Holding a dataset: one worker at a time, fenced by the lease's epoch, renewed while it works."""

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


class Hold:
    """What a worker may write while it holds a dataset."""

    def __init__(self, table: Table[DatasetRecord], record: DatasetRecord, clock: Clock, ttl: timedelta) -> None:
        self._table = table
        self._clock = clock
        self._ttl = ttl
        self.record = record

    async def write(self, decide: Change) -> DatasetRecord:
        """Applies the change; LeaseLost, and nothing written, once the dataset was taken over, deleted or made anew."""

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
        """Moves the lease's expiry."""
        await self.write(lambda now: replace(now, lease=now.lease.renewed(self._clock.now(), self._ttl)))

    async def delete(self) -> None:
        """Removes the record; LeaseLost if it is no longer this holder's."""
        await self.renew()
        present = await self._table.get(self.record.name)
        await self._table.delete(self.record.name, present.etag)

    async def release(self) -> None:
        """Lets go, whatever became of the dataset; a lease that somebody else has is left alone."""

        def released(now: DatasetRecord) -> DatasetRecord:
            same = (now.uid, now.lease.epoch) == (self.record.uid, self.record.lease.epoch)
            return replace(now, lease=now.lease.released()) if same and now.lease.holder else now

        try:
            await self._table.change(self.record.name, released)
        except RecordNotFound:
            return


@asynccontextmanager
async def holding(
    table: Table[DatasetRecord], name: str, holder: str, clock: Clock, ttl: timedelta
) -> AsyncGenerator[Hold]:
    """Takes the dataset for the block, and renews the lease while the block runs.

    Raises LeaseLost if somebody else holds it, or takes it meanwhile: then the block is cancelled. RecordNotFound if
    there is no such dataset, WrongState if nothing is due for it. The lease is free after the block, unless the
    process was killed: then it runs out.
    """
    taken = await table.change(name, lambda record: record.taken(holder, clock.now(), ttl))
    hold = Hold(table, taken.value, clock, ttl)
    owner = asyncio.current_task()
    lost: list[LeaseLost] = []

    async def keep() -> None:
        try:
            while True:
                await asyncio.sleep(ttl.total_seconds() / 4)  # Real time: a clock that jumps would never let go.
                with suppress(Unavailable):  # An outage that lasts longer than the lease shows in the next write.
                    await hold.renew()
        except LeaseLost as error:
            lost.append(error)
            if owner:
                owner.cancel()

    keeper = asyncio.create_task(keep(), name=f"lease of {name}")
    try:
        yield hold
    except asyncio.CancelledError:
        if lost and owner and not owner.uncancel():
            raise lost[0] from None
        raise
    finally:
        keeper.cancel()
        await hold.release()
