"""What holds datasets here: batch predictions of their images, until they have ended or are deleted."""

from dataclasses import dataclass

from services.kit import names
from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.errors import NotFound, SightlineError
from services.kit.holds import Holder, Holds
from services.kit.log import Log, about
from services.kit.tasks import repeat
from services.predictor.batch.datasets import Datasets
from services.predictor.batch.domain import COLLECTION, BatchRecord

SWEEP_SECONDS = 60.0  # between two searches for missing holds
TICK_SECONDS, PAUSE_SECONDS = 2.0, 0.5  # the most and the least between two passes; a deletion waits three seconds

_log = Log(__name__)


def holder_of(record: BatchRecord) -> Holder:
    """The record as a holder."""
    return Holder(record.name, record.uid)


def needed_by(record: BatchRecord) -> str:
    """The dataset that it reads; empty if it reads none, has ended, or is being deleted."""
    return "" if record.ended or record.is_deleting else record.source.dataset


@dataclass(frozen=True, slots=True)
class Holding:
    """Takes holds on datasets, as `services.kit.holds` says."""

    holds: Holds
    datasets: Datasets
    clock: Clock

    async def hold(self, record: BatchRecord) -> None:
        """Holds the dataset that a stored record needs, if any; the errors of `Holds.take`."""
        if dataset := needed_by(record):
            await self.holds.take(dataset, holder_of(record), lambda: self.datasets.revision(dataset), self.clock)


class HoldKeeper:
    """Ends the holds of what has ended, and takes those that are missing. Any number of replicas may run it."""

    def __init__(self, batches: Collection[BatchRecord], holding: Holding, clock: Clock) -> None:
        self._batches = batches
        self._holding = holding
        self._clock = clock
        self._swept = float("-inf")

    async def run(self) -> None:
        """Reconciles until cancelled, once the views are synced, and soon after each change."""
        await self._batches.view.synced()
        await self._holding.holds.view.synced()
        await repeat(self.reconcile, self._batches.view.pauses(self._clock, PAUSE_SECONDS, TICK_SECONDS))

    async def reconcile(self) -> None:
        """One pass; errors are logged, and a later pass tries again."""
        for held in self._holding.holds.view.all():
            for name, id_ in held.value.holders.items():
                if names.split(name)[1].startswith(f"{COLLECTION}/"):  # others are another service's
                    await self._end(held.value.dataset, Holder(name, id_))
        if (now := self._clock.monotonic()) >= self._swept + SWEEP_SECONDS:
            self._swept = now
            for found in self._batches.view.all():
                await self._repair(found.value)

    async def _end(self, dataset: str, holder: Holder) -> None:
        """Ends the hold unless it is needed. Views may lag: what is stored decides."""
        found = self._batches.view.find(holder.name)
        if found is not None and _needs(found.value, dataset, holder):
            return
        with about(holder.name):
            try:
                if not await self._is_needed(dataset, holder):
                    await self._holding.holds.remove(dataset, holder)
                    _log.info("hold_ended", dataset=dataset)
            except SightlineError as error:
                _log.info("reconcile_postponed", problem=error.message)

    async def _is_needed(self, dataset: str, holder: Holder) -> bool:
        try:
            return _needs((await self._batches.get(holder.name)).value, dataset, holder)
        except NotFound:
            return False

    async def _repair(self, record: BatchRecord) -> None:
        """Takes a missing hold, as of a record from before there were any."""
        dataset = needed_by(record)
        if dataset and self._holding.holds.of(dataset).get(record.name) != record.uid:
            with about(record.name):
                try:
                    await self._holding.hold(record)
                except SightlineError as error:
                    _log.info("hold_postponed", dataset=dataset, problem=error.message)


def _needs(record: BatchRecord, dataset: str, holder: Holder) -> bool:
    return holder_of(record) == holder and needed_by(record) == dataset
