"""One attempt at a trial, evaluation, estimate or export: its lease, and what it writes into the ledger."""

from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any, TypeVar

from msgspec.structs import replace

from services.kit.clock import Clock
from services.kit.errors import LeaseLost, RecordNotFound
from services.kit.leases import Lease, LeaseGuard
from services.kit.records import Table
from services.trainer.domain import Evaluation, Trial
from services.trainer.estimate import Estimate
from services.trainer.export import Export
from services.trainer.ledger import scaled
from services.trainer.work import Work

R = TypeVar("R", Trial, Evaluation, Estimate, Export)


class CancelRequested(Exception):
    """The caller wants the work to stop."""


class Attempt(LeaseGuard[R]):
    """A lease guard whose writes keep the ledger. Every write may raise LeaseLost."""

    def __init__(self, table: Table[R], taken: R, clock: Clock, lease: timedelta, factor: float) -> None:
        super().__init__(table, taken, _lease, lambda record: record.blob_prefix)
        self._clock = clock
        self._ttl = lease
        self._factor_of_one = Fraction(factor)
        self.devices = 1  # that work on it at the same time, each of which is charged

    @classmethod
    async def begin(
        cls, table: Table[R], name: str, holder: str, clock: Clock, lease: timedelta, factor: float
    ) -> "Attempt[R] | None":
        """Takes the lease; None if there is nothing to do: the work has ended, is cancelled, gone or leased to another.

        Work whose last attempts all died without a commit ends here, and None is returned.
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
        """Resource name."""
        return self.record.name

    @property
    def factor(self) -> float:
        """How many seconds are charged for one second of one of this worker's devices."""
        return float(self._factor_of_one)

    @property
    def _factor(self) -> Fraction:
        """Seconds charged for one second."""
        return self._factor_of_one * self.devices

    @property
    def charge(self) -> float:
        """How many seconds are charged for one second of all devices that work on it."""
        return float(self._factor)

    @property
    def allowance(self) -> timedelta:
        """What is left, as time on this worker's devices."""
        return scaled(self.record.work.remaining, 1 / self._factor)

    def on_reference(self, span: timedelta) -> timedelta:
        """Time on this worker's device, as the ledger counts it."""
        return scaled(span, self._factor)

    async def beat(self, used: timedelta, progress: float, phase: str) -> None:
        """Renews the lease and reports progress; CancelRequested. Does nothing once this attempt has ended."""
        charged = self.on_reference(used)

        def beaten(work: Work) -> Work:
            return work.beaten(self._clock.now(), self._ttl, used=charged, progress=progress, phase=phase)

        await self.renew(self._with(beaten))
        if self.record.work.cancel_requested and not self.record.work.ended:
            raise CancelRequested

    async def commit(self, used: timedelta, checkpoint_key: str) -> None:
        """Charges everything up to a checkpoint that is in the store."""
        charged = self.on_reference(used)

        def committed(work: Work) -> Work:
            return work.committed(self._clock.now(), self._ttl, used=charged, checkpoint_key=checkpoint_key)

        await self.write(self._with(committed))

    async def succeed(self, used: timedelta, **results: Any) -> None:
        """Ends the work with its results, all of which are in the store."""
        charged = self.on_reference(used)
        await self.write(self._with(lambda work: work.succeeded(self._clock.now(), charged), **results))

    async def end(self, how: Callable[[Work], Work]) -> None:
        """Ends the work, or gives it back, in another way."""
        await self.write(self._with(how))

    def _with(self, how: Callable[[Work], Work], **results: Any) -> Callable[[R], R]:
        return lambda record: replace(record.with_work(how(record.work), self._clock.now()), **results)


def _lease(record: Trial | Evaluation | Estimate | Export) -> Lease:
    return record.work.lease


AnyAttempt = Attempt[Trial] | Attempt[Evaluation] | Attempt[Estimate] | Attempt[Export]
