"""Ends the holds of trainings and evaluations that have ended, and repairs those that are missing."""

from collections.abc import Iterable

from services.kit import names
from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.hold_keeping import HoldKeeping
from services.kit.holds import Holder
from services.trainer.domain import Evaluation, Model, ModelState
from services.trainer.holding import Holding, holder_of, needed_by
from services.trainer.store import Store


class HoldKeeper(HoldKeeping[Model | Evaluation]):
    """Of all models and evaluations."""

    def __init__(self, store: Store, holding: Holding, clock: Clock) -> None:
        super().__init__(store.holds, clock)
        self._store = store
        self._holding = holding

    def collection_of(self, name: str) -> Collection[Model] | Collection[Evaluation] | None:
        if not names.split(name)[1].startswith("models/"):
            return None
        return self._store.evaluations if "/evaluations/" in name else self._store.models

    def records(self) -> Iterable[Model | Evaluation]:
        """All but models that have not started: their start takes their holds."""
        models = (found.value for found in self._store.models.view.all())
        yield from (model for model in models if model.state is not ModelState.NOT_STARTED)
        yield from (found.value for found in self._store.evaluations.view.all())

    def holder_of(self, record: Model | Evaluation) -> Holder:
        return holder_of(record)

    def needed_by(self, record: Model | Evaluation) -> tuple[str, ...]:
        return needed_by(record)

    async def hold(self, record: Model | Evaluation, dataset: str) -> None:
        await self._holding.hold(record, dataset)
