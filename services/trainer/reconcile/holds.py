"""Ends the holds of what has ended, and repairs those that are missing."""

from services.kit import names
from services.kit.clock import Clock
from services.kit.errors import NotFound, SightlineError
from services.kit.holds import Holder
from services.kit.log import Log, about
from services.trainer.domain import Evaluation, Model, ModelState
from services.trainer.holding import Holding, holder_of, needed_by
from services.trainer.store import Store

SWEEP_SECONDS = 60.0  # between two searches for missing holds

_log = Log(__name__)


class HoldKeeper:
    """Any number of replicas may run it."""

    def __init__(self, store: Store, holding: Holding, clock: Clock) -> None:
        self._store = store
        self._holding = holding
        self._clock = clock
        self._swept = float("-inf")

    async def reconcile(self) -> None:
        """One pass; errors are logged, and a later pass tries again."""
        for held in self._store.holds.view.all():
            for name, id_ in held.value.holders.items():
                if names.split(name)[1].startswith("models/"):  # others are another service's
                    await self._end(held.value.dataset, Holder(name, id_))
        if (now := self._clock.monotonic()) >= self._swept + SWEEP_SECONDS:
            self._swept = now
            for found in (*self._store.models.view.all(), *self._store.evaluations.view.all()):
                await self._repair(found.value)

    async def _end(self, dataset: str, holder: Holder) -> None:
        """Ends the hold unless it is needed. Views may lag: what is stored decides."""
        view = self._store.evaluations.view if "/evaluations/" in holder.name else self._store.models.view
        found = view.find(holder.name)
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
        collection = self._store.evaluations if "/evaluations/" in holder.name else self._store.models
        try:
            return _needs((await collection.get(holder.name)).value, dataset, holder)
        except NotFound:
            return False

    async def _repair(self, record: Model | Evaluation) -> None:
        """Takes missing holds, as of records from before there were any; a model's start takes its own."""
        if isinstance(record, Model) and record.state is ModelState.NOT_STARTED:
            return
        for dataset in needed_by(record):
            if self._store.holds.of(dataset).get(record.name) != holder_of(record).id:
                with about(record.name):
                    try:
                        await self._holding.hold(record, dataset)
                    except SightlineError as error:
                        _log.info("hold_postponed", dataset=dataset, problem=error.message)


def _needs(record: Model | Evaluation, dataset: str, holder: Holder) -> bool:
    return holder_of(record) == holder and dataset in needed_by(record)
