"""One attempt at one piece of work: the record that it reports to, under the epoch of its lease."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Generic, TypeVar

from services.kit.clock import Clock
from services.kit.errors import LeaseLost, RecordNotFound
from services.kit.records import Table
from services.trainer.domain import Evaluation, Trial
from services.trainer.work import Work

R = TypeVar("R", Trial, Evaluation)


class CancelRequested(Exception):
    """The caller wants the work to stop."""


class Attempt(Generic[R]):
    """Law: nothing is written once the lease is lost or the record is gone; LeaseLost says so.

    Reports and ends may be written by several tasks at once; they take turns, so `record` never goes back.
    """

    def __init__(self, table: Table[R], record: R, clock: Clock, lease: timedelta, factor: float) -> None:
        self._table = table
        self.record = record
        self.epoch = record.work.lease.epoch
        self._clock = clock
        self._lease = lease
        self._factor = factor
        self._turn = asyncio.Lock()

    @classmethod
    async def begin(
        cls, table: Table[R], name: str, holder: str, clock: Clock, lease: timedelta, factor: float
    ) -> "Attempt[R] | None":
        """Takes the lease; None if there is nothing to do: ended, deleted, cancelled, or in somebody else's hands.

        If so many attempts have died of it that another would too, it ends here, and there is nothing to do either.
        """

        def take(record: R) -> R:
            work, now = record.work, clock.now()
            if work.ended:
                return record
            if work.lease.is_live(now) and work.lease.holder != holder:
                raise LeaseLost(name=name, epoch=work.lease.epoch)
            moved = work.cancelled(now) if work.cancel_requested else work.taken(name, holder, now, lease)
            return record.with_work(moved, now)

        try:
            taken = (await table.change(name, take)).value
        except (RecordNotFound, LeaseLost):
            return None
        return None if taken.work.ended else cls(table, taken, clock, lease, factor)

    @property
    def name(self) -> str:
        """Of the resource."""
        return self.record.name

    @property
    def allowance_seconds(self) -> float:
        """What is left, in seconds of this worker's device."""
        return self.record.work.remaining_seconds / self._factor

    async def beat(self, seconds_used: float, progress: float, phase: str) -> None:
        """Renews the lease and says how far it is; CancelRequested, LeaseLost."""
        used = seconds_used * self._factor
        async with self._turn:
            if self.record.work.ended:
                return  # by the other task, in this moment
            await self._write(
                lambda work: work.beaten(
                    self._clock.now(), self._lease, seconds_used=used, progress=progress, phase=phase
                )
            )
        if self.record.work.cancel_requested:
            raise CancelRequested

    async def commit(self, seconds_used: float, checkpoint_key: str) -> None:
        """Charges everything up to a checkpoint that is in the store."""
        used = seconds_used * self._factor
        async with self._turn:
            await self._write(
                lambda work: work.committed(
                    self._clock.now(), self._lease, seconds_used=used, checkpoint_key=checkpoint_key
                )
            )

    async def succeed(self, seconds_used: float, **results: Any) -> None:
        """Ends the work with what it brought, all of which is in the store."""
        async with self._turn:
            await self._write(lambda work: work.succeeded(self._clock.now(), seconds_used * self._factor), **results)

    async def end(self, how: Callable[[Work], Work]) -> None:
        """Ends the work, or gives it back, in another way."""
        async with self._turn:
            await self._write(how)

    async def _write(self, how: Callable[[Work], Work], **results: Any) -> None:
        def decide(record: R) -> R:
            record.work.check_epoch(record.name, self.epoch)
            return replace(record.with_work(how(record.work), self._clock.now()), **results)

        try:
            self.record = (await self._table.change(self.name, decide)).value
        except RecordNotFound:
            raise LeaseLost(name=self.name, epoch=self.epoch) from None


AnyAttempt = Attempt[Trial] | Attempt[Evaluation]
