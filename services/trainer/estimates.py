"""The use case of EstimateTraining: a probe that lives as long as its callers wait. Depends on ports only."""

import asyncio
import uuid
from contextlib import suppress
from datetime import timedelta

from msgspec.structs import replace

from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.errors import (
    EstimateNotFound,
    EstimateTimedOut,
    EtagMismatch,
    RecordExists,
    RemoteError,
    SightlineError,
    TooManyEstimates,
)
from services.kit.log import Log
from services.kit.telemetry import Telemetry
from services.trainer import metrics
from services.trainer.bundles import with_base
from services.trainer.call_time import waiting_seconds
from services.trainer.coverage import check_categories
from services.trainer.datasets import Datasets, check_kind, check_training_dataset
from services.trainer.domain import Model
from services.trainer.estimate import Estimate, anonymous, name_for
from services.trainer.origin import Origin
from services.trainer.planner.outlook import with_recipes
from services.trainer.store import Store
from services.trainer.work import Work, WorkState

ALLOWANCE = timedelta(minutes=10)  # of a probe, which takes seconds on a usual device
WAIT = timedelta(minutes=10)  # for a call without a deadline
MOST_AT_ONCE = 2  # of a project, so that its estimates, for which nobody pays, leave workers to others
INTEREST = timedelta(seconds=20)  # after which a caller that was not heard of, as its api died, no longer counts

_log = Log(__name__)


class Estimates:
    """Answers calls by probes of workers."""

    def __init__(self, store: Store, datasets: Datasets, blobs: Blobs, clock: Clock, telemetry: Telemetry) -> None:
        self._store = store
        self._blobs = blobs
        self._datasets = datasets
        self._clock = clock
        self._telemetry = telemetry
        self._turn = asyncio.Lock()

    async def estimate(self, wanted: Model, remaining_seconds: float | None) -> Estimate:
        """The estimate once its probe has ended, within the call's remaining time; EstimateTimedOut, TooManyEstimates.

        The datasets must be READY and fit for training, and the base model must have a bundle: the errors of
        CreateModel. A probe's own failure is raised as an error. A call that ends in any way leaves nothing behind,
        unless another waits for the same probe.
        """
        result = metrics.EstimateResult.FAILED
        try:
            draft = await self._checked(wanted)
            ended = await self._in_time(draft, remaining_seconds)
            self._telemetry.observe(metrics.ESTIMATE_SECONDS, ended.work.charged.total_seconds())
            result = metrics.EstimateResult.SUCCEEDED
        except EstimateTimedOut:
            result = metrics.EstimateResult.TIMED_OUT
            raise
        except asyncio.CancelledError:
            result = metrics.EstimateResult.CANCELLED
            raise
        finally:
            self._telemetry.add(metrics.ESTIMATES, 1, result=result)
        return ended

    async def _checked(self, wanted: Model) -> Estimate:
        """The record to create; DatasetNotReady, or whatever makes the datasets or the base model unfit."""
        wanted = await with_base(wanted, self._store, self._blobs, "training_parameters.base_model")
        training = await self._datasets.get(wanted.training_dataset)
        snapshot = training.snapshot()
        check_training_dataset(training, wanted.model_kind)
        model = anonymous(replace(wanted, training=snapshot, categories=training.category_names))
        if wanted.test_dataset:
            test = await self._datasets.get(wanted.test_dataset)
            model = replace(model, test=test.snapshot())
            check_kind(test, wanted.model_kind)
            check_categories(test, training.category_names, wanted.model_kind)
        now = self._clock.now()
        draft = Estimate(
            name=name_for(model),
            model=model,
            fewest=min(images for _, images, _ in training.categories),
            work=Work(create_time=now, allowance=ALLOWANCE, origin=Origin.current()),
            update_time=now,
        )
        return with_recipes(draft)

    async def _in_time(self, draft: Estimate, remaining_seconds: float | None) -> Estimate:
        given = WAIT.total_seconds() if remaining_seconds is None else remaining_seconds
        caller = uuid.uuid4().hex
        try:
            async with asyncio.timeout(waiting_seconds(given)):
                return await self._ended(draft, caller)
        except TimeoutError:
            raise self._timed_out(draft, given) from None
        finally:
            await asyncio.shield(self._leave(draft.name, caller))

    async def _ended(self, draft: Estimate, caller: str) -> Estimate:
        """Waits for the end of the probe; raises its failure. A record that has vanished is created again."""
        while True:
            version = self._store.estimates.view.version
            found = await self._joined(draft, caller)
            match found.work.state:
                case WorkState.SUCCEEDED:
                    return found
                case WorkState.FAILED if found.work.error is not None:
                    raise RemoteError.restore(found.work.error)
                case WorkState.STOPPED | WorkState.CANCELLED:
                    problem = f"its probe did not end within {ALLOWANCE.total_seconds():g} s"
                    raise EstimateTimedOut(
                        dataset=draft.model.training_dataset, seconds=f"{ALLOWANCE.total_seconds():g}", problem=problem
                    )
                case _:
                    await self._store.estimates.view.changed(INTEREST.total_seconds() / 4, version)

    async def _joined(self, draft: Estimate, caller: str) -> Estimate:
        """The record as it is now, with this caller among those that wait; written at most every few seconds."""
        now = self._clock.now()
        until = now + INTEREST

        def decide(present: Estimate) -> Estimate:
            if present.work.ended or present.callers.get(caller, now) > now + INTEREST / 2:
                return present
            return present.awaited(caller, now, until)

        try:
            return (await self._store.estimates.change(draft.name, decide)).value
        except EstimateNotFound:
            pass
        with suppress(RecordExists):  # another call was faster; the next look finds it
            await self._create(draft.awaited(caller, now, until))
            _log.info("estimate_planned", name=draft.name, dataset=draft.model.training_dataset)
        return draft

    async def _create(self, draft: Estimate) -> None:
        """Adds the record; TooManyEstimates if MOST_AT_ONCE others of its project have not ended, RecordExists."""
        async with self._turn:  # calls at the same moment count each other, at least those of this replica
            present = [found.value for found in self._store.estimates.view.all()]
            others = [one for one in present if one.project == draft.project and one.name != draft.name]
            if sum(not one.work.ended for one in others) >= MOST_AT_ONCE:
                raise TooManyEstimates(subject=f"project {draft.project}", limit=MOST_AT_ONCE)
            await self._store.estimates.create(draft)

    async def _leave(self, name: str, caller: str) -> None:
        """Deletes the record if no other caller waits; in an outage, the interest expires by itself."""
        try:
            while True:
                left = await self._store.estimates.change(name, lambda present: present.left_by(caller))
                if left.value.is_wanted(self._clock.now()):
                    return
                with suppress(EtagMismatch):  # the worker has reported, or another call has come: look again
                    await self._store.estimates.delete(name, left.etag)
                    return
        except EstimateNotFound:
            return
        except SightlineError as error:
            _log.info("estimate_kept", name=name, problem=error.message)

    def _timed_out(self, draft: Estimate, seconds: float) -> EstimateTimedOut:
        found = self._store.estimates.view.find(draft.name)
        began = found is not None and found.value.work.state is WorkState.RUNNING
        problem = "a worker was still measuring; allow more time" if began else "no worker was free"
        return EstimateTimedOut(dataset=draft.model.training_dataset, seconds=f"{seconds:.3g}", problem=problem)
