"""Ends the holds of what has ended, and takes those that are missing; each service does so for its own records."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.errors import NotFound, SightlineError
from services.kit.holds import Holder, Holds
from services.kit.log import Log, about
from services.kit.paging import Named

SWEEP_SECONDS = 60.0  # between two searches for missing holds

R = TypeVar("R", bound=Named)

_log = Log(__name__)


class HoldKeeping(ABC, Generic[R]):
    """Any number of replicas may run it."""

    def __init__(self, holds: Holds, clock: Clock) -> None:
        self._holds = holds
        self._clock = clock
        self._swept = float("-inf")

    @abstractmethod
    def collection_of(self, name: str) -> Collection[Any] | None:
        """Where the record of a holder is; None if it is another service's."""

    @abstractmethod
    def records(self) -> Iterable[R]:
        """Those that should have their holds, according to the views."""

    @abstractmethod
    def holder_of(self, record: R) -> Holder:
        """The record as a holder."""

    @abstractmethod
    def needed_by(self, record: R) -> tuple[str, ...]:
        """The datasets that it reads."""

    @abstractmethod
    async def hold(self, record: R, dataset: str) -> None:
        """Holds a dataset for it; the errors of `Holds.take`."""

    async def reconcile(self) -> None:
        """One pass; errors are logged, and a later pass tries again."""
        for held in self._holds.view.all():
            for name, id_ in held.value.holders.items():
                if (collection := self.collection_of(name)) is not None:
                    await self._end(collection, held.value.dataset, Holder(name, id_))
        if (now := self._clock.monotonic()) >= self._swept + SWEEP_SECONDS:
            self._swept = now
            for record in self.records():
                await self._repair(record)

    async def _end(self, collection: Collection[R], dataset: str, holder: Holder) -> None:
        """Ends the hold unless it is needed. Views may lag: what is stored decides."""
        found = collection.view.find(holder.name)
        if found is not None and self._needs(found.value, dataset, holder):
            return
        with about(holder.name):
            try:
                if not await self._is_needed(collection, dataset, holder):
                    await self._holds.remove(dataset, holder)
                    _log.info("hold_ended", dataset=dataset)
            except SightlineError as error:
                _log.info("reconcile_postponed", problem=error.message)

    async def _is_needed(self, collection: Collection[R], dataset: str, holder: Holder) -> bool:
        try:
            return self._needs((await collection.get(holder.name)).value, dataset, holder)
        except NotFound:
            return False

    async def _repair(self, record: R) -> None:
        """Takes missing holds, as of records from before there were any."""
        for dataset in self.needed_by(record):
            if self._holds.of(dataset).get(record.name) != self.holder_of(record).id:
                with about(record.name):
                    try:
                        await self.hold(record, dataset)
                    except SightlineError as error:
                        _log.info("hold_postponed", dataset=dataset, problem=error.message)

    def _needs(self, record: R, dataset: str, holder: Holder) -> bool:
        return self.holder_of(record) == holder and dataset in self.needed_by(record)
