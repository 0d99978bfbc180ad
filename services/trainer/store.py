"""The trainer's collections: models, aliases, trials, evaluations, estimates and exports, and combined reads."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from services.kit import names
from services.kit.accounts import Accounts
from services.kit.collection import Collection
from services.kit.errors import (
    EstimateNotFound,
    EvaluationNotFound,
    ExportNotFound,
    ModelAliasNotFound,
    ModelNotFound,
    TrialNotFound,
)
from services.kit.holds import Holds
from services.kit.records import Records, Versioned
from services.kit.views import Changes, View
from services.trainer.alias import Alias, key_of
from services.trainer.domain import FINAL_EVALUATION, Evaluation, Model, Trial, training_cost, works_of
from services.trainer.estimate import COLLECTION, Estimate
from services.trainer.export import Export
from services.trainer.ledger import charged_by_month
from services.trainer.work import Work, WorkState

SERVICE = "trainer"  # whose accounts these are
PREDICTOR = "predictor"  # the service whose accounts have the compute and the results of batch predictions
MAX_KNOWN = 200_000  # records whose charges are kept in memory


class Charges:
    """What trials and evaluations were charged in each month; each ledger is added up once after every change."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, dict[str, timedelta]]] = {}

    def of(self, found: Versioned[Trial] | Versioned[Evaluation]) -> dict[str, timedelta]:
        """By month."""
        name = found.value.name
        revision, months = self._known.get(name, (0, {}))
        if revision != found.revision:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()  # of deleted records
            months = charged_by_month(found.value.work.segments)
            self._known[name] = found.revision, months
        return months


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that the trainer stores."""

    models: Collection[Model]
    aliases: Collection[Alias]
    trials: Collection[Trial]
    evaluations: Collection[Evaluation]
    estimates: Collection[Estimate]
    exports: Collection[Export]
    accounts: Accounts
    holds: Holds
    charges: Charges = field(default_factory=Charges)

    @classmethod
    def over(cls, records: Records) -> "Store":
        """The store in these records; its views stay empty until `run`."""
        models = Collection(records, Model, ModelNotFound, "models")
        evaluations = Collection(records, Evaluation, EvaluationNotFound, "models", "evaluations")
        return cls(
            models,
            Collection(records, Alias, ModelAliasNotFound, "models", "aliases"),
            Collection(records, Trial, TrialNotFound, "models", "trials"),
            evaluations,
            Collection(records, Estimate, EstimateNotFound, COLLECTION),
            Collection(records, Export, ExportNotFound, "models", "exports"),
            Accounts(records, SERVICE, {"models": models.view, "evaluations": evaluations.view}, (PREDICTOR,)),
            Holds(records),
        )

    @property
    def _resources(self) -> tuple[View[Model], View[Trial], View[Evaluation], View[Estimate], View[Export]]:
        views = self.models.view, self.trials.view, self.evaluations.view, self.estimates.view
        return *views, self.exports.view

    @property
    def _views(self) -> tuple[View[Any], ...]:
        return *self._resources, self.aliases.view, self.accounts.view, self.holds.view

    async def run(self) -> None:
        """Keeps the views current until cancelled."""
        async with asyncio.TaskGroup() as group:
            for view in self._views:
                group.create_task(view.run(), name="view")

    async def synced(self) -> None:
        """Returns once the views hold everything that existed when they started."""
        for view in self._views:
            await view.synced()

    async def is_synced(self) -> bool:
        """Whether the views are complete: the api's readiness."""
        return all(view.is_synced for view in self._views)

    async def alias(self, name: str) -> Versioned[Alias]:
        """The alias that callers name so, as of now; ModelAliasNotFound."""
        try:
            return await self.aliases.get(key_of(name))
        except ModelAliasNotFound:
            raise ModelAliasNotFound(name=name) from None

    async def model(self, name: str) -> Versioned[Model]:
        """The model of this name or alias, as of now; ModelNotFound, ModelAliasNotFound."""
        if not names.is_alias(name):
            return await self.models.get(name)
        alias = (await self.alias(name)).value
        found = await self.models.get(alias.model)
        if not alias.stands_for(found.value):
            raise ModelNotFound(name=alias.model)  # another one has been given its name
        return found

    async def model_name(self, name: str) -> str:
        """The name itself, or of an alias the name of the model; ModelNotFound, ModelAliasNotFound."""
        return (await self.model(name)).value.name if names.is_alias(name) else name

    def aliases_of(self, model: Model) -> list[str]:
        """The aliases that stand for the model, as callers name them, according to the view."""
        prefix = names.root(names.split(model.name)[0]) + "models/"
        found = (alias.value for alias in self.aliases.view.all(prefix))
        return [alias.public_name for alias in found if alias.stands_for(model)]

    def changes(self) -> Changes:
        """Changes of any resource, from now on."""
        return Changes(*self._resources)

    def revisions_of(self, model: str) -> tuple[int, ...]:
        """The revisions, in the views, of a model, its trials and its final evaluation."""
        parts = (self.models.view.find(model), self.evaluations.view.find(f"{model}/evaluations/{FINAL_EVALUATION}"))
        found = (*(part for part in parts if part), *self.trials.view.all(f"{model}/trials/"))
        return tuple(part.revision for part in found)

    async def model_changed(self, model: str, seen: tuple[int, ...], timeout_seconds: float) -> None:
        """Returns once the model's `revisions_of` differ from those seen, or after the timeout."""
        changes = self.changes()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self.revisions_of(model) == seen:
                    await changes.wait(timeout_seconds)

    async def settled(self, model: Model, timeout_seconds: float = 1.0) -> bool:
        """Returns once the views hold all the ledger entries of an ended model; whether they do, after the timeout.

        If another replica has just ended it, they may lag, and the ledger would not add up to the cost.
        """
        changes = self.changes()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while model.ended and self.cost_of(model.name) < model.training_cost:
                    await changes.wait(timeout_seconds)
        return not model.ended or self.cost_of(model.name) >= model.training_cost

    def cost_of(self, model: str) -> timedelta:
        """What the model's budget has paid, according to the views."""
        return training_cost(self.trials_of(model), self.final_of(model))

    def trials_of(self, model: str) -> list[Trial]:
        """The model's trials, in order of number."""
        return [trial.value for trial in self.trials.view.all(f"{model}/trials/")]

    def final_of(self, model: str) -> Evaluation | None:
        """The evaluation that is part of the model's training, if it has been planned."""
        found = self.evaluations.view.find(f"{model}/evaluations/{FINAL_EVALUATION}")
        return found.value if found else None

    def works(self) -> list[Work]:
        """The work of every trial, evaluation, estimate and export, in no order."""
        views = self.trials.view, self.evaluations.view, self.estimates.view, self.exports.view
        return [found.value.work for view in views for found in view.all()]

    def queue_position(self, model: str) -> int | None:
        """How much other work waits for a worker and was planned earlier; None unless the model's work waits."""
        own = works_of(self.trials_of(model), self.final_of(model))
        waiting = [work.create_time for work in own if work.state is WorkState.QUEUED]
        if not waiting:
            return None
        return sum(work.state is WorkState.QUEUED and work.create_time < min(waiting) for work in self.works())
