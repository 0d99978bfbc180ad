"""What callers do with evaluations. Depends on ports only."""

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

from services.kit import codec
from services.kit.blobs import Blobs, delete_prefix
from services.kit.caller_fields import check_caller_fields
from services.kit.clock import Clock
from services.kit.collection import create_once
from services.kit.errors import (
    DatasetNotFound,
    DatasetNotReady,
    EtagMismatch,
    EvaluationAlreadyExists,
    EvaluationNotFound,
    InvalidRequest,
    NotFound,
    WrongState,
)
from services.kit.names import new_uid
from services.kit.paging import page_of
from services.kit.records import Versioned
from services.trainer.bundles import require_served
from services.trainer.comparisons import Comparisons
from services.trainer.coverage import check_categories
from services.trainer.datasets import Dataset, Datasets, check_kind
from services.trainer.domain import FINAL_EVALUATION, Draft, Evaluation, Model, served_trial
from services.trainer.holding import Holding
from services.trainer.origin import Origin
from services.trainer.performance import Performance
from services.trainer.planner.costs import evaluation_seconds, resolution_of, slowness
from services.trainer.planner.significance import Significance
from services.trainer.quotas import Quotas
from services.trainer.reconcile.counts import Counts
from services.trainer.store import Store
from services.trainer.work import Work, WorkState

ALLOWANCE = timedelta(hours=24)


class Evaluations:
    """Everything that callers do with evaluations."""

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
        self._comparisons = Comparisons(blobs)

    async def create(self, model: str, draft: Draft, *, validate_only: bool) -> Versioned[Evaluation]:
        """Stores an evaluation of the bundle that the model serves now, on a READY dataset."""
        check_caller_fields("evaluation", draft.display_name, {})
        if draft.id == FINAL_EVALUATION:
            problem = f"{FINAL_EVALUATION!r} is reserved for the evaluation that ends a training; choose another id."
            raise InvalidRequest(field="evaluation_id", problem=problem)
        name, expected, is_new = f"{model}/evaluations/{draft.id}", timedelta(), False

        async def make() -> Evaluation:
            nonlocal expected
            subject = (await self._store.models.get(model)).value
            dataset = await self._datasets.get(draft.test_dataset)
            evaluation = self._drafted(subject, dataset, draft)
            check_kind(dataset, subject.model_kind)
            check_categories(dataset, subject.categories, subject.model_kind)
            expected = self._expected(subject, dataset)
            return await self._quotas.check_evaluation(evaluation, expected)

        async def add(made: Evaluation) -> Versioned[Evaluation]:
            nonlocal is_new
            added = await self._quotas.create_evaluation(made, expected)
            is_new = True
            return added

        created = await create_once(
            self._store.evaluations,
            name,
            draft.request_id,
            EvaluationAlreadyExists(name=name),
            make,
            create=add,
            validate_only=validate_only,
        )
        if not validate_only:
            await self._hold(created, is_new=is_new)
        return created

    async def _hold(self, created: Versioned[Evaluation], *, is_new: bool) -> None:
        """Holds the dataset; if it has been deleted meanwhile, a new evaluation goes too, with that error.

        After any other error, or if the process dies, the coordinator holds it.
        """
        try:
            await self._holding.hold_all(created.value)
        except (DatasetNotFound, DatasetNotReady):
            if is_new:
                with suppress(NotFound, EtagMismatch):  # a worker has it, and it is FAILED
                    await self._counts.delete(self._store.evaluations, created.value.name, created.etag)
                raise

    def _expected(self, model: Model, dataset: Dataset) -> timedelta:
        """The expected compute, by the pace of the model's training."""
        trials = self._store.trials_of(model.name)
        served = served_trial(model, trials)
        if served is None:
            return timedelta()
        seconds = evaluation_seconds(served.recipe, dataset.image_count, resolution_of(trials), slowness(trials))
        return timedelta(seconds=seconds)

    def _drafted(self, model: Model, dataset: Dataset, draft: Draft) -> Evaluation:
        served, now = require_served(model), self._clock.now()
        return Evaluation(
            name=f"{model.name}/evaluations/{draft.id}",
            uid=new_uid(),
            model_uid=model.uid,
            test_dataset=draft.test_dataset,
            test=dataset.snapshot(),
            model_version=served.version,
            bundle_key=served.bundle_key,
            bundle_digest=served.bundle_digest,
            bundle_signature=served.bundle_signature,
            model_kind=model.model_kind,
            work=Work(create_time=now, allowance=ALLOWANCE, origin=Origin.current()),
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
        scope = f"{model}/evaluations"
        return page_of(self._store.evaluations.view.all(f"{scope}/"), scope, page_size, page_token)

    async def delete(self, name: str, etag: str) -> None:
        """Removes an evaluation in any state; a worker that runs it stops at its next report.

        The one that ends a training cannot be removed: it is part of the model's ledger.
        """
        found = await self.get(name)
        if found.value.is_final:
            problem = f"{name} is part of its model's training; it is deleted with the model."
            raise InvalidRequest(field="name", problem=problem)
        deleted = await self._counts.delete(self._store.evaluations, name, etag)
        await delete_prefix(self._blobs, deleted.blob_prefix)

    async def performance(self, evaluation: Evaluation) -> Performance | None:
        """The full performance; None before there is one."""
        if not evaluation.performance_key:
            return None
        return codec.decode(await self._blobs.get(evaluation.performance_key), Performance)

    async def compare(self, first: str, second: str) -> Significance:
        """A paired test of two evaluations; EvaluationNotFound, WrongState unless both have SUCCEEDED.

        InvalidRequest if they are of different images, or have none in common.
        """
        pair = (await self.get(first)).value, (await self.get(second)).value
        for one in pair:
            if one.work.state is not WorkState.SUCCEEDED:
                raise WrongState(name=one.name, state=one.state, verb="comparing", allowed="SUCCEEDED")
        if pair[0].test.digest != pair[1].test.digest:
            raise InvalidRequest(field="second_evaluation", problem=_other_images(*pair))
        found = await self._comparisons.of(pair[0].predictions_key, pair[1].predictions_key)
        if found is None:
            problem = f"{first} and {second} have no image in common that shows a category of both models."
            raise InvalidRequest(field="second_evaluation", problem=problem)
        return found

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


def _other_images(first: Evaluation, second: Evaluation) -> str:
    """Why two evaluations cannot be compared image by image."""
    if first.test_dataset != second.test_dataset:
        which = f"{first.name} is of {first.test_dataset}, {second.name} of {second.test_dataset}"
        return f"{which}; measure both models on the same dataset."
    older = min(first, second, key=lambda one: one.work.create_time)
    return f"{first.test_dataset} has changed since {older.name} was measured; measure that model again."
