"""Why a training or an export does not move: what its datasets, the queue and the workers say at this moment."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from services.kit.clock import Clock
from services.kit.errors import SightlineError, Unavailable
from services.kit.queue import Queue
from services.trainer.datasets import Dataset, Datasets, DatasetState
from services.trainer.domain import Model, ModelState, works_of
from services.trainer.reconcile.workers import Present
from services.trainer.store import Store
from services.trainer.work import Work

BLINK_SECONDS = 0.3  # longer than a worker takes from one fetch to the next
PROMPT = timedelta(seconds=3)  # a worker goes from one job to the next in less, and is neither busy nor waiting then


class WaitReason(StrEnum):
    """Why nothing runs for a model, as the contract names it."""

    DATASET_VALIDATING = "DATASET_VALIDATING"
    DATASET_SERVICE_UNREACHABLE = "DATASET_SERVICE_UNREACHABLE"
    NO_WORKER = "NO_WORKER"
    WORKERS_BUSY = "WORKERS_BUSY"
    WORKER_STARTING = "WORKER_STARTING"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reason, the workers that are connected, and the datasets that are still being validated."""

    reason: WaitReason
    workers: int = 0
    busy_workers: int = 0
    validating: tuple[Dataset, ...] = ()


@dataclass(frozen=True, slots=True)
class Waits:
    """Finds out why a model waits. It never fails: what cannot be found out is left out."""

    store: Store
    queue: Queue
    datasets: Datasets
    clock: Clock

    async def reason_of(self, model: Model) -> Waiting | None:
        """None while a worker runs something for the model, the planner has to decide, or training has ended."""
        if model.state is ModelState.NOT_STARTED:
            return await self._for_datasets(model)
        if model.ended:
            return None
        return await self.reason_for(works_of(self.store.trials_of(model.name), self.store.final_of(model.name)))

    async def reason_for(self, works: list[Work]) -> Waiting | None:
        """None while a worker runs any of this work, or none of it is due."""
        now = self.clock.now()
        if not any(work.is_due(now) for work in works) or any(work.lease.is_live(now) for work in works):
            return None
        try:
            present = await self._present()
        except Unavailable:
            return None
        prompt = any(work.is_due(now) and now - work.due_time < PROMPT for work in works)
        reason = WaitReason.WORKERS_BUSY if present.busy else WaitReason.NO_WORKER
        reason = WaitReason.WORKER_STARTING if present.waiting or prompt else reason
        return Waiting(reason, present.total, present.busy)

    async def _for_datasets(self, model: Model) -> Waiting | None:
        try:
            found = [await self.datasets.get(name) for name in (model.training_dataset, model.test_dataset) if name]
        except Unavailable:
            return Waiting(WaitReason.DATASET_SERVICE_UNREACHABLE)
        except SightlineError:
            return None  # the coordinator fails the model for it
        validating = tuple(dataset for dataset in found if dataset.state is DatasetState.VALIDATING)
        return Waiting(WaitReason.DATASET_VALIDATING, validating=validating) if validating else None

    async def _present(self) -> Present:
        """The workers. One between two fetches is not missed: if there seems to be none, it looks again."""
        present = await Present.counted(self.store, self.queue, self.clock)
        if present.total:
            return present
        await self.clock.sleep(BLINK_SECONDS)
        return await Present.counted(self.store, self.queue, self.clock)
