"""The trainer's records: models, trials and evaluations, each as a table to write and a view to list and follow."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.kit.errors import (
    EvaluationNotFound,
    ModelNotFound,
    NotFound,
    RecordNotFound,
    TrialNotFound,
)
from services.kit.records import Records, Table, Versioned
from services.kit.views import View
from services.trainer.domain import FINAL_EVALUATION, Evaluation, Model, Trial, training_cost
from services.trainer.work import WorkState

T = TypeVar("T", Model, Trial, Evaluation)


class Collection(Generic[T]):
    """One kind of resource. Every write returns once the view has it, so that a list shows what was just answered."""

    def __init__(self, records: Records, type_: type[T], missing: type[NotFound], *collections: str) -> None:
        self.table = Table(records, type_)
        self.view = View(records, type_, *collections)
        self._missing = missing

    async def get(self, name: str) -> Versioned[T]:
        """The resource as of now; its own kind of NotFound."""
        try:
            return await self.table.get(name)
        except RecordNotFound:
            raise self._missing(name=name) from None

    async def create(self, resource: T) -> Versioned[T]:
        """Adds it; RecordExists."""
        created = await self.table.create(resource.name, resource)
        await self.view.caught_up(created.revision)
        return created

    async def change(self, name: str, decide: Callable[[T], T], etag: str = "") -> Versioned[T]:
        """Applies a decision, as `Table.change` does; its own kind of NotFound."""
        try:
            changed = await self.table.change(name, decide, etag)
        except RecordNotFound:
            raise self._missing(name=name) from None
        await self.view.caught_up(changed.revision)
        return changed

    async def delete(self, name: str, etag: str = "") -> None:
        """Removes it; its own kind of NotFound."""
        try:
            revision = await self.table.delete(name, etag)
        except RecordNotFound:
            raise self._missing(name=name) from None
        await self.view.caught_up(revision)


@dataclass(frozen=True, slots=True)
class Store:
    """All that the trainer keeps."""

    models: Collection[Model]
    trials: Collection[Trial]
    evaluations: Collection[Evaluation]

    @classmethod
    def over(cls, records: Records) -> "Store":
        """The store in these records; its views are empty until `run`."""
        return cls(
            Collection(records, Model, ModelNotFound, "models"),
            Collection(records, Trial, TrialNotFound, "models", "trials"),
            Collection(records, Evaluation, EvaluationNotFound, "models", "evaluations"),
        )

    @property
    def _views(self) -> tuple[View[Model], View[Trial], View[Evaluation]]:
        return self.models.view, self.trials.view, self.evaluations.view

    async def run(self) -> None:
        """Keeps the views current until cancelled."""
        async with asyncio.TaskGroup() as group:
            for view in self._views:
                group.create_task(view.run(), name="view")

    async def synced(self) -> None:
        """Returns once the views hold everything that existed when they began."""
        for view in self._views:
            await view.synced()

    async def is_synced(self) -> bool:
        """Whether the views are complete; what readiness means."""
        return all(view.is_synced for view in self._views)

    @property
    def versions(self) -> tuple[int, ...]:
        """The version of each view; for `changed`."""
        return tuple(view.version for view in self._views)

    async def changed(self, timeout_seconds: float, since: tuple[int, ...]) -> None:
        """Returns once any view has changed since the given `versions`, or after the timeout."""
        pairs = zip(self._views, since, strict=True)
        waits = [asyncio.ensure_future(view.changed(timeout_seconds, version)) for view, version in pairs]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def revisions_of(self, model: str) -> tuple[int, ...]:
        """The revisions that the views have of a model, its trials and its own evaluation."""
        parts = (self.models.view.find(model), self.evaluations.view.find(f"{model}/evaluations/{FINAL_EVALUATION}"))
        found = (*(part for part in parts if part), *self.trials.view.all(f"{model}/trials/"))
        return tuple(part.revision for part in found)

    async def model_changed(self, model: str, seen: tuple[int, ...], timeout_seconds: float) -> None:
        """Returns once `revisions_of` the model differ from those seen, or after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while (versions := self.versions) and self.revisions_of(model) == seen:
                    await self.changed(timeout_seconds, versions)

    async def settled(self, model: Model, timeout_seconds: float = 1.0) -> None:
        """Returns once the views have all that an ended model's cost was summed up from, or after the timeout.

        Another replica may have ended it in this moment; a ledger that does not add up would be shown otherwise.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while model.ended and self.cost_of(model.name) < model.training_cost_seconds:
                    await self.changed(timeout_seconds, self.versions)

    def cost_of(self, model: str) -> float:
        """What the budget of a model has paid, as far as the views know."""
        return training_cost(self.trials_of(model), self.final_of(model))

    def trials_of(self, model: str) -> list[Trial]:
        """The trials that the view has of a model, by number, as their names ascend."""
        return [trial.value for trial in self.trials.view.all(f"{model}/trials/")]

    def final_of(self, model: str) -> Evaluation | None:
        """The evaluation that is part of a model's training, if it has begun."""
        found = self.evaluations.view.find(f"{model}/evaluations/{FINAL_EVALUATION}")
        return found.value if found else None

    def queue_position(self, model: str) -> int | None:
        """How much work was planned before a model's and waits for a worker too; None unless the model's waits."""
        final = self.final_of(model)
        own = [trial.work for trial in self.trials_of(model)] + ([final.work] if final else [])
        waiting = [work.create_time for work in own if work.state is WorkState.QUEUED]
        if not waiting:
            return None
        records = (*self.trials.view.all(), *self.evaluations.view.all())
        works = [found.value.work for found in records]
        return sum(work.state is WorkState.QUEUED and work.create_time < min(waiting) for work in works)
