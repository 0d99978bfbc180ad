"""Takes a dataset's lease for a block of work, and renews it meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

from services.dataset.domain import DatasetRecord
from services.kit.clock import Clock
from services.kit.errors import LeaseLost, Unavailable
from services.kit.leases import Lease, LeaseGuard
from services.kit.records import Table
from services.kit.tasks import alongside, repeat

DatasetGuard = LeaseGuard[DatasetRecord]


@asynccontextmanager
async def leased(
    table: Table[DatasetRecord], name: str, holder: str, clock: Clock, ttl: timedelta
) -> AsyncGenerator[DatasetGuard]:
    """Takes the lease for the block, and renews it while the block runs.

    Raises LeaseLost if another worker holds the lease or takes it during the block, or if the dataset is to be deleted:
    the block is then cancelled. RecordNotFound if there is no such dataset, WrongState if nothing is due for it. The
    lease is released after the block; if the process is killed, it expires.
    """
    taken = (await table.change(name, lambda record: record.taken(holder, clock.now(), ttl))).value
    guard = LeaseGuard(table, taken, _lease, lambda record: (record.uid, record.generation))
    release = LeaseGuard(table, taken, _lease, lambda record: record.uid)  # a deletion waits for it

    async def keep() -> None:
        pause = partial(asyncio.sleep, ttl.total_seconds() / 4)  # real time: with a manual clock this would spin
        await pause()
        await repeat(lambda: guard.renew(renewed), pause, survives=Unavailable)  # the lease decides about an outage

    def renewed(record: DatasetRecord) -> DatasetRecord:
        return replace(record, lease=record.lease.renewed(clock.now(), ttl))

    try:
        async with alongside(lease=keep()):
            yield guard
    finally:
        with suppress(LeaseLost):
            await release.write(lambda record: replace(record, lease=record.lease.released()))


def _lease(record: DatasetRecord) -> Lease:
    return record.lease
