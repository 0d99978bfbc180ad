"""The trainer worker: takes one piece of work at a time, has a child run it, and records the result.

Delivery is at least once: a job may arrive twice, and worker, child, broker and store may die at any moment. The lease
in the record decides who works on it; committed work is never repeated, and never charged twice.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from msgspec import structs

from services.kit import codec
from services.kit.blobs import delete_prefix
from services.kit.clock import Clock
from services.kit.consume import Released
from services.kit.errors import (
    BlobDamaged,
    BlobNotFound,
    EvaluationNotFound,
    LeaseLost,
    ModelNotFound,
    SightlineError,
    TrialNotFound,
    Unavailable,
)
from services.kit.log import Log, about
from services.kit.names import parent
from services.kit.tasks import alongside
from services.kit.telemetry import Telemetry
from services.kit.tracing import Span
from services.trainer import metrics
from services.trainer.domain import Evaluation, Trial
from services.trainer.estimate import COLLECTION, Estimate
from services.trainer.export import Export
from services.trainer.messages import EvaluateTask, ExportTask, Ready, Task, TrainTask
from services.trainer.performance import Performance
from services.trainer.recipe import Recipe, Split
from services.trainer.settings import TrainerSettings
from services.trainer.store import Store
from services.trainer.tally import AttemptResult
from services.trainer.work import MAX_ATTEMPTS_WITHOUT_COMMIT, Work
from services.trainer.worker.attempt import AnyAttempt, Attempt, CancelRequested
from services.trainer.worker.bundle_folders import BundleFolders
from services.trainer.worker.child_pool import (
    SPARE_DELAY_SECONDS,
    ChildDied,
    ChildHung,
    ChildNotStarted,
    ChildPool,
    DeviceUnusable,
)
from services.trainer.worker.probing import probe_task
from services.trainer.worker.supervision import Stopped, Supervision
from services.trainer.worker.workspace import Workspace
from services.vision.catalogue import suited
from services.vision.signing import Signer, Verifier
from services.vision.timm_networks import DeviceClass

_FAILURES = frozenset({AttemptResult.FAILED, AttemptResult.DIED, AttemptResult.HUNG, AttemptResult.LEASE_LOST})

_log = Log(__name__)


class Worker:
    """Handles jobs of `jobs.KIND`, one at a time."""

    def __init__(
        self,
        name: str,
        store: Store,
        workspace: Workspace,
        pool: ChildPool,
        settings: TrainerSettings,
        clock: Clock,
        telemetry: Telemetry,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Once `stop` is set, the current attempt saves a checkpoint and gives its work back, and no other begins.

        The worker itself sets it when the device can no longer be used, which `pool.unusable` then explains.
        SigningKeyUnusable.
        """
        self._stop = stop or asyncio.Event()
        self._name = name
        self._store = store
        self._workspace = workspace
        self._pool = pool
        self._settings = settings
        self._signer = Signer.of(settings.signing_key.get_secret_value())
        verifier = Verifier.of(settings.bundle_key, settings.bundle_signatures, telemetry)
        verifier.expect(self._signer)
        self._bundles = BundleFolders(workspace, verifier)
        self._clock = clock
        self._telemetry = telemetry
        self._fits: dict[tuple[object, ...], int] = {}  # images per micro-batch, found by trials that ran out of memory

    async def handle(self, name: str) -> bool:
        """Makes attempts at a trial, evaluation, estimate or export until it has ended or another worker has its lease.

        The number of deliveries does not matter; the record decides what is poison. Returns whether there was anything
        to do. Released if the worker has to stop before the end.
        """
        worked = False
        with about(name):
            while (attempt := await self._begin(name)) is not None:
                worked = True
                _log.info("attempt_began", attempt=attempt.record.work.attempt)
                result = AttemptResult.RELEASED
                with self._span(attempt) as span:
                    try:
                        result = await self._attempt(attempt)
                    finally:
                        _log.info("attempt_ended", attempt=attempt.record.work.attempt, result=result)
                        span.set("sightline.attempt.result", result)
                    if result in _FAILURES:
                        span.fail(result)
                if result is AttemptResult.LEASE_LOST:
                    await self._clean(attempt.record)
                if isinstance(attempt.record, Trial):
                    await self._workspace.features(attempt.record.training).share()
                if attempt.record.work.ended:
                    break
                if result is AttemptResult.HUNG:
                    raise Released  # to any worker: this one's machine may be what hangs
        return worked

    def _span(self, attempt: AnyAttempt) -> AbstractContextManager[Span]:
        record = attempt.record
        about = {"sightline.resource": record.name, "sightline.attempt": record.work.attempt}
        return self._telemetry.tracer.span(type(record).__name__.lower(), about)

    async def _clean(self, record: Trial | Evaluation | Estimate | Export) -> None:
        """Removes what an attempt without a lease may have stored after its blobs were deleted.

        As long as its model is there, that is left to the model's deletion: a successor may go on from a checkpoint. An
        evaluation can be deleted alone.
        """
        if isinstance(record, Estimate):
            return
        with suppress(SightlineError):
            try:
                model = (await self._store.models.get(parent(record.name))).value
                present = record
                if isinstance(record, Evaluation):
                    present = (await self._store.evaluations.get(record.name)).value
                if model.uid == record.model_uid and present.blob_prefix == record.blob_prefix:
                    return
            except (ModelNotFound, EvaluationNotFound):
                pass
            await delete_prefix(self._workspace.blobs, record.blob_prefix)

    async def _begin(self, name: str) -> AnyAttempt | None:
        if self._stop.is_set():
            raise Released
        settings = self._settings
        rest = (name, self._name, self._clock, settings.lease, settings.device_factor)
        if "/trials/" in name:
            return await Attempt[Trial].begin(self._store.trials.table, *rest)
        if name.startswith(f"{COLLECTION}/"):
            return await Attempt[Estimate].begin(self._store.estimates.table, *rest)
        if "/exports/" in name:
            return await Attempt[Export].begin(self._store.exports.table, *rest)
        return await Attempt[Evaluation].begin(self._store.evaluations.table, *rest)

    async def _attempt(self, attempt: AnyAttempt) -> AttemptResult:
        """Runs one attempt and returns its result. Gives the work back on asyncio cancellation and in an outage."""
        now = self._clock.now
        supervision = Supervision(attempt, self._workspace, self._clock, self._telemetry, self._signer)
        try:
            return await self._carry_out(attempt, supervision)
        except CancelRequested:
            return await self._end(supervision, AttemptResult.CANCELLED, lambda work: work.cancelled(now()))
        except LeaseLost:
            return AttemptResult.LEASE_LOST
        except Stopped:
            await self._release(attempt)
            return AttemptResult.RELEASED
        except Unavailable:
            await self._release(attempt)
            raise  # the job is delivered again
        except ChildNotStarted as error:
            await self._release(attempt)
            raise Unavailable(what="the training process", problem=str(error)) from error
        except DeviceUnusable as error:
            await self._release(attempt)
            self._pool.unusable = error
            self._stop.set()  # it would not work for another task either
            raise Released from None
        except SightlineError as error:
            failure = error.failure()
            return await self._end(supervision, AttemptResult.FAILED, lambda work: work.failed(now(), failure))
        except asyncio.CancelledError:
            await asyncio.shield(self._release(attempt))
            raise
        except Exception as error:  # noqa: BLE001 - after a child's death or a defect another attempt may succeed
            problem = str(error) if isinstance(error, ChildDied) else f"{type(error).__name__}: {error}"
            _log.error("attempt_died", None if isinstance(error, ChildDied) else error, problem=problem)
            result = AttemptResult.HUNG if isinstance(error, ChildHung) else AttemptResult.DIED
            return await self._end(supervision, result, lambda work: work.lost(now(), attempt.name, problem, result))

    async def _end(self, supervision: Supervision, result: AttemptResult, how: Callable[[Work], Work]) -> AttemptResult:
        try:
            await supervision.end(how)
        except LeaseLost:
            return AttemptResult.LEASE_LOST
        return result

    async def _release(self, attempt: AnyAttempt) -> None:
        """Gives the work back, so that others can take it at once; if that fails, the lease expires."""
        if attempt.record.work.ended:
            return
        with suppress(SightlineError):
            await attempt.end(lambda work: work.released(self._clock.now()))

    async def _carry_out(self, attempt: AnyAttempt, supervision: Supervision) -> AttemptResult:
        """Fetches what the task needs and runs it in a child; renews the lease from the start."""
        beat = supervision.beat(self._settings.heartbeat_seconds)
        with self._workspace.attempt() as scratch:
            async with alongside(heartbeat=beat, stop=supervision.give_up(self._stop)):
                return await self._in_child(attempt, supervision, await self._task(attempt, Path(scratch)))

    async def _in_child(self, attempt: AnyAttempt, supervision: Supervision, task: Task) -> AttemptResult:
        child = await self._pool.take()
        self._telemetry.observe(metrics.CHILD_START_SECONDS, child.ready.import_seconds)
        self._telemetry.set(metrics.DEVICE, 1, device=child.ready.device)
        self._pool.prepare(SPARE_DELAY_SECONDS)
        if isinstance(task, TrainTask):  # an evaluation uses the first device only
            attempt.devices = child.ready.devices
        try:
            record, device = attempt.record, child.ready.device
            if isinstance(record, Trial | Estimate):
                await self._workspace.fetch_weights(self._networks(record, child.ready))
            if isinstance(record, Trial):
                await self._workspace.features(record.training).fetch(record.recipe, device)
            here = structs.replace(task, device=device, allowance=attempt.allowance, charge=attempt.charge)
            result = await supervision.run(child, here)
            if isinstance(here, TrainTask) and supervision.batch_size_limit:
                self._fits[_memory(here.recipe)] = supervision.batch_size_limit
            return result
        finally:
            await child.end()

    def _networks(self, record: Trial | Estimate, ready: Ready) -> set[str]:
        """The networks whose weights the work may use: those of its recipes, and all that suit the device."""
        recipes = (record.recipe,) if isinstance(record, Trial) else record.recipes
        device = DeviceClass.of(ready.device, self._settings.threads, ready.memory_bytes)
        return {name for recipe in recipes for name in (*recipe.backbones, *suited(recipe.kind, device))}

    async def _task(self, attempt: AnyAttempt, scratch: Path) -> Task:
        output = scratch / "output"
        output.mkdir()
        record = attempt.record
        if isinstance(record, Estimate):
            return await probe_task(record, self._workspace, self._bundles, self._settings, scratch, attempt.allowance)
        if isinstance(record, Evaluation):
            return EvaluateTask(
                evaluation=record.name,
                dataset=record.test_dataset,
                bundle_directory=str(await self._bundles.served(record)),
                directory=str(await self._workspace.snapshot(record.test)),
                output_directory=str(output),
                allowance=attempt.allowance,
                threads=self._settings.threads,
            )
        if isinstance(record, Export):
            return ExportTask(
                export=record.name,
                model=record.public_model,
                model_version=record.model_version,
                bundle_directory=str(await self._bundles.served(record)),
                bundle_digest=record.bundle_digest,
                format=record.format,
                output_directory=str(output),
                allowance=attempt.allowance,
                threads=self._settings.threads,
            )
        weights, deaths = self._settings.weights_dir, record.work.attempts_without_commit
        base = await self._bundles.continued(record)
        return TrainTask(
            trial=record.name,
            dataset=record.training.dataset,
            directory=str(await self._workspace.snapshot(record.training)),
            recipe=record.recipe,
            allowance=attempt.allowance,
            output_directory=str(output),
            cache_directory=str(await self._workspace.cache()),
            graphs_directory=str(self._settings.graphs),
            weights_directory=str(weights) if weights else None,
            installed_weights=self._settings.installed_weights,
            download_weights=self._settings.download_weights,
            weights=record.weights,
            base_directory=str(base) if base else None,
            checkpoint_path=await self._checkpoint(record),
            checkpoint_seconds=self._settings.checkpoint_seconds,
            split=Split(seed=record.seed, holdout_fraction=record.holdout_fraction),
            seed=record.seed,
            threads=self._settings.threads,
            batch_size_limit=_batch_size_limit(deaths) or self._fits.get(_memory(record.recipe), 0),
            frugal=_batch_size_limit(deaths) > 0,
            thresholds=await self._thresholds(record),
        )

    async def _thresholds(self, trial: Trial) -> dict[str, float]:
        """The thresholds of the trial that a refit repeats; other trials need none.

        While that trial runs, those of the one that it repeats itself: the same settings, trained for less time.
        """
        if not (trial.recipe.refit and trial.parent_trial):
            return {}
        try:
            repeated = (await self._store.trials.get(trial.parent_trial)).value
            if repeated.result is None and repeated.parent_trial:
                repeated = (await self._store.trials.get(repeated.parent_trial)).value
            if repeated.result is None:
                return {}
            whole = await self._workspace.blobs.get(repeated.result.performance_key)
        except (TrialNotFound, BlobNotFound):
            return {}  # its model is being deleted
        return codec.decode(whole, Performance).suggested_thresholds

    async def _checkpoint(self, trial: Trial) -> str | None:
        """Path of the last checkpoint; None, so that the trial starts over, if there is none or the store lost it."""
        if not trial.work.checkpoint_key:
            return None
        try:
            return str(await self._workspace.folder(trial.work.checkpoint_key))
        except (BlobNotFound, BlobDamaged) as error:
            _log.warning("checkpoint_missing", key=trial.work.checkpoint_key, problem=error.message)
            return None


def _memory(recipe: Recipe) -> tuple[object, ...]:
    """What decides how many images fit into the device's memory."""
    return recipe.kind, recipe.backbones, recipe.resolution, recipe.depth


def _batch_size_limit(failures: int) -> int:
    """A child that died without a checkpoint may have run out of memory: later attempts use smaller batches."""
    return 0 if failures < 2 else 8 if failures < MAX_ATTEMPTS_WITHOUT_COMMIT - 1 else 1
