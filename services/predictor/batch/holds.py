"""What holds datasets here: batch predictions of their images, until they have ended or are deleted."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.kit import names
from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.hold_keeping import HoldKeeping
from services.kit.holds import Holder, Holds
from services.kit.tasks import repeat
from services.predictor.batch.datasets import Datasets
from services.predictor.batch.domain import COLLECTION, BatchRecord

TICK_SECONDS, PAUSE_SECONDS = 2.0, 0.5  # the most and the least between two passes; a deletion waits three seconds


def holder_of(record: BatchRecord) -> Holder:
    """The record as a holder."""
    return Holder(record.name, record.uid)


def needed_by(record: BatchRecord) -> tuple[str, ...]:
    """The dataset that it reads; none if it reads none, has ended, or is being deleted."""
    dataset = record.source.dataset
    return () if record.ended or record.is_deleting or not dataset else (dataset,)


@dataclass(frozen=True, slots=True)
class Holding:
    """Takes holds on datasets, as `services.kit.holds` says."""

    holds: Holds
    datasets: Datasets
    clock: Clock

    async def hold(self, record: BatchRecord) -> None:
        """Holds the dataset that a stored record needs, if any; the errors of `Holds.take`."""
        for dataset in needed_by(record):
            await self.holds.take(
                dataset, holder_of(record), lambda name=dataset: self.datasets.revision(name), self.clock
            )


class HoldKeeper(HoldKeeping[BatchRecord]):
    """Of all batch predictions."""

    def __init__(self, batches: Collection[BatchRecord], holding: Holding, clock: Clock) -> None:
        super().__init__(holding.holds, clock)
        self._batches = batches
        self._holding = holding

    async def run(self) -> None:
        """Reconciles until cancelled, once the views are synced, and soon after each change."""
        await self._batches.view.synced()
        await self._holds.view.synced()
        await repeat(self.reconcile, self._batches.view.pauses(self._clock, PAUSE_SECONDS, TICK_SECONDS))

    def collection_of(self, name: str) -> Collection[BatchRecord] | None:
        return self._batches if names.split(name)[1].startswith(f"{COLLECTION}/") else None

    def records(self) -> Iterable[BatchRecord]:
        return (found.value for found in self._batches.view.all())

    def holder_of(self, record: BatchRecord) -> Holder:
        return holder_of(record)

    def needed_by(self, record: BatchRecord) -> tuple[str, ...]:
        return needed_by(record)

    async def hold(self, record: BatchRecord, dataset: str) -> None:
        """The dataset is its only one."""
        await self._holding.hold(record)
