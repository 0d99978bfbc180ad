"""What callers do with models. Depends on ports only."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from services.kit import codec
from services.kit.blobs import Blobs, delete_prefix
from services.kit.caller_fields import Changes, check_caller_fields
from services.kit.clock import Clock
from services.kit.collection import Collection, create_once
from services.kit.errors import (
    DatasetNotFound,
    DatasetNotReady,
    EtagMismatch,
    ModelAlreadyExists,
    ModelInUse,
    ModelNotFound,
    NotFound,
    WrongState,
)
from services.kit.names import own
from services.kit.paging import page_of
from services.kit.records import Versioned
from services.trainer.bundles import read_card, with_base
from services.trainer.coverage import check_categories
from services.trainer.datasets import Datasets, DatasetState, check_kind, check_training_dataset, usable
from services.trainer.domain import NEXT, Evaluation, Model, ModelState, StopReason, Trial
from services.trainer.export import Export
from services.trainer.holding import Holding
from services.trainer.insight import NO_INSIGHT, Insight, LearningCurve, no_curve
from services.trainer.leaderboard import Entry, Leaderboard
from services.trainer.origin import Origin
from services.trainer.performance import Performance
from services.trainer.planner.needs import check_budget, check_prediction_cost
from services.trainer.quotas import Quotas
from services.trainer.reconcile.counts import Counts
from services.trainer.store import Store
from services.vision.card import ModelKind

P = TypeVar("P", Trial, Evaluation, Export)

WATCH_SECONDS = 2.0  # after which a watch looks again even without a change


class Models:
    """Everything that callers do with models."""

    def __init__(
        self, store: Store, datasets: Datasets, blobs: Blobs, clock: Clock, counts: Counts, quotas: Quotas
    ) -> None:
        self._store = store
        self._quotas = quotas
        self._counts = counts
        self._datasets = datasets
        self._holding = Holding(store.holds, datasets, clock)
        self._blobs = blobs
        self._clock = clock
        self._leaderboard = Leaderboard(blobs)

    async def create(self, model: Model, *, validate_only: bool) -> Versioned[Model]:
        """Checks the request against quotas and the datasets as they are now, and stores the model in NOT_STARTED.

        A dataset that is still VALIDATING is accepted; the coordinator checks it once it is READY.
        """
        check_caller_fields("model", model.display_name, model.custom_properties)
        model = replace(model, origin=Origin.current())
        created = await create_once(
            self._store.models,
            model.name,
            model.request_id,
            ModelAlreadyExists(name=model.name),
            lambda: self._checked(model),
            create=self._quotas.create_model,
            validate_only=validate_only,
        )
        if not validate_only:
            await self._hold(created, is_new=created.value.uid == model.uid)
        return created

    async def _hold(self, created: Versioned[Model], *, is_new: bool) -> None:
        """Holds the model's datasets; if one has been deleted meanwhile, a new model goes too, with that error.

        After any other error, or if the process dies, the coordinator holds them before it starts the training.
        """
        try:
            await self._holding.hold_all(created.value)
        except (DatasetNotFound, DatasetNotReady):
            if is_new:
                with suppress(NotFound, EtagMismatch):  # the coordinator has seen it, and it is FAILED
                    await self._store.models.delete(created.value.name, created.etag)
                raise

    async def _checked(self, model: Model) -> Model:
        model = await with_base(model, self._store, self._blobs, "model.training_parameters.base_model")
        check_prediction_cost(model.model_kind, model.wanted)
        training = await usable(self._datasets, model.training_dataset)
        test = await usable(self._datasets, model.test_dataset) if model.test_dataset else None
        if training.state is DatasetState.READY:
            check_training_dataset(training, model.model_kind)
        if test is not None and test.state is DatasetState.READY:
            check_kind(test, model.model_kind)
        if training.state is DatasetState.READY and (test is None or test.state is DatasetState.READY):
            if test is not None:
                check_categories(test, training.category_names, model.model_kind)
            check_budget(model, training.image_count, test.image_count if test else 0)
        await self._quotas.check_model(model)
        return model

    async def get(self, name: str) -> Versioned[Model]:
        """The current model of this name or alias; ModelNotFound, ModelAliasNotFound."""
        return await self._store.model(name)

    def page(self, page_size: int, page_token: str) -> tuple[list[Versioned[Model]], str]:
        """One page of the project's models, by name."""
        return page_of(self._store.models.view.all(own("models", "")), own("models"), page_size, page_token)

    async def trials(self, model: str, page_size: int, page_token: str) -> tuple[list[Versioned[Trial]], str]:
        """One page of a model's trials, in the order of planning; ModelNotFound."""
        await self.get(model)
        scope = f"{model}/trials"
        return page_of(self._store.trials.view.all(f"{scope}/"), scope, page_size, page_token)

    async def update(self, name: str, changes: Changes, etag: str) -> Versioned[Model]:
        """Changes the caller's fields."""

        def decide(model: Model) -> Model:
            changed = replace(model, **changes)
            return model if changed == model else replace(changed, update_time=self._clock.now())

        return await self._store.models.change(name, decide, etag)

    async def cancel(self, name: str) -> Versioned[Model]:
        """NOT_STARTED or TRAINING to CANCELLING; no change if it is already CANCELLING or CANCELLED."""
        now = self._clock.now()

        def decide(model: Model) -> Model:
            if model.state in (ModelState.CANCELLING, ModelState.CANCELLED):
                return model
            if ModelState.CANCELLING not in NEXT[model.state]:
                raise WrongState(name=name, state=model.state, verb="cancelling", allowed="NOT_STARTED and TRAINING")
            return model.moved(ModelState.CANCELLING, now, stop_reason=StopReason.CANCELLED_BY_CALLER)

        return await self._store.models.change(name, decide)

    async def delete(self, name: str, etag: str, *, force: bool = False) -> None:
        """Removes a model whose training is over: its record, then its blobs, then its trials, evaluations and exports.

        ModelInUse if an alias stands for it, unless `force`. An alias set at the same moment may be missed: it then
        stands for no model, as after `force`. EtagMismatch. A model that is created under the name in the meantime
        keeps everything.

        After the first step no caller can see it. If the process dies before the last step, or the store is away, the
        coordinator does the rest for the records that remain. They go last, so that no blob stays without one.
        """
        model = await self._delete_record(name, etag, force=force)
        await delete_prefix(self._blobs, model.blob_prefix)
        await _delete_parts(model, self._store.trials, partial(self._counts.delete, self._store.trials))
        await _delete_parts(model, self._store.evaluations, partial(self._counts.delete, self._store.evaluations))
        await _delete_parts(model, self._store.exports, self._store.exports.delete)

    async def _delete_record(self, name: str, etag: str, *, force: bool) -> Model:
        """Removes the very record that was found to be deletable, and returns it."""
        while True:
            found = await self.get(name)
            if not found.value.ended:
                allowed = "SUCCEEDED, FAILED and CANCELLED (cancel it first)"
                raise WrongState(name=name, state=found.value.state, verb="deleting", allowed=allowed)
            if not force and (aliases := self._store.aliases_of(found.value)):
                raise ModelInUse(name=name, aliases=" and ".join(aliases))
            if etag not in ("", found.etag):
                raise EtagMismatch(name=name, etag=etag, current=found.etag)
            # Only trials read it; without any, no record would remain.
            await delete_prefix(self._blobs, found.value.base_key)
            try:
                await self._store.models.delete(name, found.etag)
            except EtagMismatch:
                continue  # with the caller's etag, the next look refuses it
            return found.value

    async def performance(self, model: Model) -> Performance | None:
        """The full performance of the served bundle, with curves and matrix; None before there is one."""
        if model.served is None:
            return None
        return codec.decode(await self._blobs.get(model.served.performance_key), Performance)

    async def suggested_thresholds(self, model: Model) -> dict[str, float]:
        """The suggested thresholds of the served bundle by category name; empty before there is one."""
        if model.served is None:
            return {}
        card = await read_card(self._blobs, model.name, model.served)
        names = [category.name for category in card.categories]
        return dict(zip(names, card.suggested_thresholds, strict=True))

    async def leaderboard(self, model: Model) -> list[Entry]:
        """Every trial, the served one first."""
        return await self._leaderboard.of(model, self._store.trials_of(model.name))

    async def learning_curve(self, trials: list[Trial]) -> tuple[str, LearningCurve]:
        """The newest trial that has a learning curve, and the curve; if none has, why the newest has none."""
        reason = ""
        for trial in reversed(trials):
            if trial.recipe.kind is ModelKind.GENERIC_DETECTOR:
                return "", no_curve("It is measured for classifiers only.")
            curve = (await self.insight(trial)).learning_curve
            if curve is not None and curve.gain is not None:
                return trial.name, curve
            reason = reason or (curve.unavailable if curve else "")
        return "", no_curve(reason or "No trial has fitted heads on frozen features, or an earlier version has.")

    async def insight(self, trial: Trial | None) -> Insight:
        """What a trial showed about its images; nothing for trials without a result and of earlier versions."""
        if trial is None or trial.result is None or not trial.result.insight_key:
            return NO_INSIGHT
        return codec.decode(await self._blobs.get(trial.result.insight_key), Insight)

    async def watch(self, name: str) -> AsyncIterator[Versioned[Model]]:
        """The model now and after each change of it or its trials, until its training is over.

        ModelNotFound once it is deleted.
        """
        view, first = self._store.models.view, await self.get(name)
        await view.caught_up(first.revision)
        while (found := view.find(name)) is not None and found.value.uid == first.value.uid:
            seen = self._store.revisions_of(name)
            yield found
            if found.value.ended:
                return
            await self._store.model_changed(name, seen, WATCH_SECONDS)
        raise ModelNotFound(name=name)


async def _delete_parts(model: Model, parts: Collection[P], delete: Callable[[str, str], Awaitable[object]]) -> None:
    """Deletes what belongs to the model, each by name and etag; what belongs to a later one of its name stays."""
    for part in parts.view.all(f"{model.name}/"):
        with suppress(NotFound):
            while (found := await parts.get(part.value.name)).value.model_uid == model.uid:
                with suppress(EtagMismatch):
                    await delete(found.value.name, found.etag)
