"""What holds datasets: trainings and evaluations, until they have ended."""

from dataclasses import dataclass

from services.kit.clock import Clock
from services.kit.errors import DatasetNotReady
from services.kit.holds import Holder, Holds
from services.trainer.datasets import Dataset, Datasets, DatasetState
from services.trainer.domain import Evaluation, Model


def holder_of(record: Model | Evaluation) -> Holder:
    """The record as a holder."""
    if isinstance(record, Model):
        return Holder(record.name, record.uid)
    return Holder(record.name, f"{record.model_uid}:{record.work.create_time.isoformat()}")


def needed_by(record: Model | Evaluation) -> tuple[str, ...]:
    """The datasets that it reads; none once it has ended. What the final evaluation reads, its model needs too."""
    if isinstance(record, Model):
        names = dict.fromkeys((record.training_dataset, record.test_dataset))
        return () if record.ended else tuple(name for name in names if name)
    return () if record.work.ended or record.is_final else (record.test_dataset,)


@dataclass(frozen=True, slots=True)
class Holding:
    """Takes holds on datasets, as `services.kit.holds` says."""

    holds: Holds
    datasets: Datasets
    clock: Clock

    async def hold_all(self, record: Model | Evaluation) -> None:
        """Holds all datasets that a stored record needs; the errors of `hold`."""
        for name in needed_by(record):
            await self.hold(record, name)

    async def hold(self, record: Model | Evaluation, name: str) -> Dataset:
        """Holds a dataset for a stored record, and returns the dataset as it is then, maybe FAILED.

        It is not deleted until the record has ended. DatasetNotFound, or DatasetNotReady if it is DELETING, and then
        without a hold; Unavailable if that is not decided yet.
        """
        found: Dataset | None = None

        async def revision() -> int:
            nonlocal found
            found = await self.datasets.get(name)
            if found.state is DatasetState.DELETING:
                raise DatasetNotReady(name=name, state=found.state)
            return found.revision

        await self.holds.take(name, holder_of(record), revision, self.clock)
        assert found is not None, "it was asked for"
        return found
