"""The trainer's use cases: what callers do with models and evaluations. Depends on ports only."""

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

from msgspec.structs import replace

from services.kit import codec
from services.kit.blobs import Blobs, delete_prefix
from services.kit.caller_fields import Changes, check_caller_fields
from services.kit.clock import Clock
from services.kit.collection import create_once
from services.kit.errors import (
    BlobNotFound,
    EvaluationAlreadyExists,
    EvaluationNotFound,
    InvalidRequest,
    ModelAlreadyExists,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    WrongState,
)
from services.kit.paging import page_of
from services.kit.records import Versioned
from services.trainer.base_model import base_model
from services.trainer.bundles import read_card
from services.trainer.coverage import check_categories
from services.trainer.datasets import (
    Dataset,
    Datasets,
    DatasetState,
    check_kind,
    check_training_dataset,
    usable,
)
from services.trainer.domain import (
    FINAL_EVALUATION,
    NEXT,
    Draft,
    Evaluation,
    Model,
    ModelState,
    StopReason,
    Trial,
)
from services.trainer.insight import NO_INSIGHT, Insight, LearningCurve, no_curve
from services.trainer.leaderboard import Entry, Leaderboard
from services.trainer.performance import Performance
from services.trainer.planner.plan import check_budget, check_prediction_cost
from services.trainer.reconcile.counts import Counts
from services.trainer.store import Store
from services.trainer.work import Work
from services.vision.card import ModelKind

EVALUATION_ALLOWANCE = timedelta(hours=24)  # of an evaluation that a caller creates
WATCH_SECONDS = 2.0  # after which a watch looks again even without a change


class Models:
    """Everything that callers do with models."""

    def __init__(self, store: Store, datasets: Datasets, blobs: Blobs, clock: Clock, counts: Counts) -> None:
        self._store = store
        self._counts = counts
        self._datasets = datasets
        self._blobs = blobs
        self._clock = clock
        self._leaderboard = Leaderboard(blobs)

    async def create(self, model: Model, *, validate_only: bool) -> Versioned[Model]:
        """Checks the request against the datasets as they are now, and stores the model in NOT_STARTED.

        A dataset that is still VALIDATING is accepted; the coordinator checks it once it is READY.
        """
        check_caller_fields("model", model.display_name, model.custom_properties)
        return await create_once(
            self._store.models,
            model.name,
            model.request_id,
            ModelAlreadyExists(name=model.name),
            lambda: self._checked(model),
            validate_only=validate_only,
        )

    async def _checked(self, model: Model) -> Model:
        model = await self._based(model)
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
        return model

    async def _based(self, model: Model) -> Model:
        """The model with what the present version of its base model brings, if it has one.

        ModelNotFound, ModelNotReady if that has no bundle, InvalidRequest if it is of another kind.
        """
        if not model.base_model:
            return model
        base = (await self._store.models.get(model.base_model)).value
        if base.model_kind is not model.model_kind:
            problem = f"{base.name} is a {base.model_kind}; a {model.model_kind} continues one of its own kind."
            raise InvalidRequest(field="model.training_parameters.base_model", problem=problem)
        if base.served is None:
            raise _not_ready(base)
        served = base.served
        try:
            card = await read_card(self._blobs, base.name, served)
        except BlobNotFound:
            raise ModelNotFound(name=base.name) from None  # it is being deleted
        known = base_model(base.name, served.version, served.bundle_key, card, served.bundle_digest)
        return replace(model, base=known)

    async def get(self, name: str) -> Versioned[Model]:
        """The current model; ModelNotFound."""
        return await self._store.models.get(name)

    def page(self, page_size: int, page_token: str) -> tuple[list[Versioned[Model]], str]:
        """One page of all models, by name."""
        return page_of(self._store.models.view.all(), "models", page_size, page_token)

    async def trials(self, model: str, page_size: int, page_token: str) -> tuple[list[Versioned[Trial]], str]:
        """One page of a model's trials, in the order of planning; ModelNotFound."""
        await self.get(model)
        return page_of(self._store.trials.view.all(f"{model}/trials/"), model, page_size, page_token)

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

    async def delete(self, name: str, etag: str) -> None:
        """Removes a model whose training is over: its record, then its trials, evaluations and blobs.

        After the first step no caller can see it. If the process dies before the last step, the coordinator removes
        the remaining records; only blobs that nothing refers to may stay.
        """
        found = await self.get(name)
        if not found.value.ended:
            allowed = "SUCCEEDED, FAILED and CANCELLED (cancel it first)"
            raise WrongState(name=name, state=found.value.state, verb="deleting", allowed=allowed)
        await self._store.models.delete(name, etag)
        for trial in self._store.trials.view.all(f"{name}/"):
            with suppress(NotFound):
                await self._counts.delete(self._store.trials, trial.value.name)
        for evaluation in self._store.evaluations.view.all(f"{name}/"):
            with suppress(NotFound):
                await self._counts.delete(self._store.evaluations, evaluation.value.name)
        await delete_prefix(self._blobs, found.value.blob_prefix)

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


class Evaluations:
    """Everything that callers do with evaluations."""

    def __init__(self, store: Store, datasets: Datasets, blobs: Blobs, clock: Clock, counts: Counts) -> None:
        self._store = store
        self._counts = counts
        self._datasets = datasets
        self._blobs = blobs
        self._clock = clock

    async def create(self, model: str, draft: Draft, *, validate_only: bool) -> Versioned[Evaluation]:
        """Stores an evaluation of the bundle that the model serves now, on a READY dataset."""
        check_caller_fields("evaluation", draft.display_name, {})
        if draft.id == FINAL_EVALUATION:
            problem = f"{FINAL_EVALUATION!r} is reserved for the evaluation that ends a training; choose another id."
            raise InvalidRequest(field="evaluation_id", problem=problem)
        name = f"{model}/evaluations/{draft.id}"

        async def make() -> Evaluation:
            subject = (await self._store.models.get(model)).value
            dataset = await self._datasets.get(draft.test_dataset)
            evaluation = self._drafted(subject, dataset, draft)
            check_kind(dataset, subject.model_kind)
            check_categories(dataset, subject.categories, subject.model_kind)
            return evaluation

        taken = EvaluationAlreadyExists(name=name)
        return await create_once(
            self._store.evaluations, name, draft.request_id, taken, make, validate_only=validate_only
        )

    def _drafted(self, model: Model, dataset: Dataset, draft: Draft) -> Evaluation:
        if model.served is None:
            raise _not_ready(model)
        now = self._clock.now()
        return Evaluation(
            name=f"{model.name}/evaluations/{draft.id}",
            model_uid=model.uid,
            test_dataset=draft.test_dataset,
            test=dataset.snapshot(),
            model_version=model.served.version,
            bundle_key=model.served.bundle_key,
            bundle_digest=model.served.bundle_digest,
            model_kind=model.model_kind,
            work=Work(create_time=now, allowance=EVALUATION_ALLOWANCE),
            update_time=now,
            display_name=draft.display_name,
            request_id=draft.request_id,
        )

    async def get(self, name: str) -> Versioned[Evaluation]:
        """The current evaluation; EvaluationNotFound."""
        return await self._store.evaluations.get(name)

    async def page(self, model: str, page_size: int, page_token: str) -> tuple[list[Versioned[Evaluation]], str]:
        """One page of a model's evaluations, by name; ModelNotFound."""
        await self._store.models.get(model)
        return page_of(self._store.evaluations.view.all(f"{model}/evaluations/"), model, page_size, page_token)

    async def delete(self, name: str, etag: str) -> None:
        """Removes an evaluation in any state; a worker that runs it stops at its next report.

        The one that ends a training cannot be removed: it is part of the model's ledger.
        """
        found = await self.get(name)
        if name.endswith(f"/{FINAL_EVALUATION}"):
            problem = f"{name} is part of its model's training; it is deleted with the model."
            raise InvalidRequest(field="name", problem=problem)
        await self._counts.delete(self._store.evaluations, name, etag)
        await delete_prefix(self._blobs, found.value.blob_prefix)

    async def performance(self, evaluation: Evaluation) -> Performance | None:
        """The full performance; None before there is one."""
        if not evaluation.performance_key:
            return None
        return codec.decode(await self._blobs.get(evaluation.performance_key), Performance)

    async def watch(self, name: str) -> AsyncIterator[Versioned[Evaluation]]:
        """The evaluation now and after each change, until it has ended; EvaluationNotFound once it is deleted."""
        first = await self.get(name)
        async for found in self._store.evaluations.view.follow(name, first):
            if found.value.work.create_time != first.value.work.create_time:
                break  # another one of the same name
            yield found
            if found.value.work.ended:
                return
        raise EvaluationNotFound(name=name)


def _not_ready(model: Model) -> ModelNotReady:
    remedy = "train another model" if model.ended else "wait until its training has a first result"
    return ModelNotReady(name=model.name, state=model.state, remedy=remedy)
