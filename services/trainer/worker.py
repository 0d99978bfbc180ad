"""The trainer worker: takes one trial or evaluation at a time, has a child carry it out, and writes down how it goes.

At least once: a job may come twice, and any of worker, child, broker and store may die at any moment. The record's
lease says whose turn it is; what was committed is never done again, and never charged again.
"""

import asyncio
from pathlib import Path

import msgspec

from services.kit.clock import Clock
from services.kit.errors import LeaseLost, SightlineError, Unavailable
from services.kit.log import Log, about
from services.kit.telemetry import Telemetry
from services.trainer import jobs, metrics
from services.trainer.attempt import AnyAttempt, Attempt, CancelRequested
from services.trainer.children import SPARE_DELAY_SECONDS, ChildDied, Nursery
from services.trainer.domain import Evaluation, Trial
from services.trainer.protocol import EvaluateTask, Split, Task, TrainTask
from services.trainer.settings import TrainerSettings
from services.trainer.store import Store
from services.trainer.supervision import Supervision
from services.trainer.work import MAX_BARREN_ATTEMPTS
from services.trainer.workspace import Workspace

_log = Log(__name__)


class Worker:
    """Handles the jobs of `jobs.KIND`, one at a time."""

    def __init__(
        self,
        name: str,
        store: Store,
        workspace: Workspace,
        nursery: Nursery,
        settings: TrainerSettings,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._name = name
        self._store = store
        self._workspace = workspace
        self._nursery = nursery
        self._settings = settings
        self._clock = clock
        self._telemetry = telemetry

    async def handle(self, body: bytes) -> None:
        """Carries out the work of a job until it has ended or is in somebody else's hands."""
        job = jobs.read(body)
        with about(job.name):
            while (attempt := await self._begin(job.name)) is not None:
                result = await self._attempt(attempt)
                kind = "trial" if isinstance(attempt.record, Trial) else "evaluation"
                self._telemetry.add(metrics.ATTEMPTS, 1, kind=kind, result=result)
                _log.info("attempt_ended", attempt=attempt.record.work.attempt, result=result)

    async def give_up(self, body: bytes) -> None:
        """For a job that came too often: fails work whose attempts all died, and tries on where there was progress."""
        job = jobs.read(body)
        attempt = await self._begin(job.name)
        if attempt is None:
            return
        if attempt.record.work.barren_attempts > MAX_BARREN_ATTEMPTS:
            problem = "its worker died, or lost the queue, every time"
            await attempt.end(lambda work: work.poisoned(self._clock.now(), job.name, problem))
            return
        await attempt.end(lambda work: work.released(self._clock.now()))
        await self.handle(body)

    async def _begin(self, name: str) -> AnyAttempt | None:
        settings = self._settings
        rest = (name, self._name, self._clock, settings.lease, settings.device_factor)
        if "/trials/" in name:
            return await Attempt[Trial].begin(self._store.trials.table, *rest)
        return await Attempt[Evaluation].begin(self._store.evaluations.table, *rest)

    async def _attempt(self, attempt: AnyAttempt) -> str:
        """One attempt to its end; returns how it ended. Releases the lease if it is cancelled from outside."""
        now = self._clock.now
        try:
            return await self._carry_out(attempt)
        except CancelRequested:
            await attempt.end(lambda work: work.cancelled(now()))
            return "cancelled"
        except LeaseLost:
            self._telemetry.add(metrics.LEASES_LOST)
            return "lease_lost"
        except ChildDied as error:
            problem = str(error)
            await attempt.end(lambda work: work.lost(now(), attempt.name, problem))
            return "child_died"
        except Unavailable:
            raise  # the lease runs out by itself, and the job comes again
        except SightlineError as error:
            failure = error.failure()
            await attempt.end(lambda work: work.failed(now(), failure))
            return "failed"
        except asyncio.CancelledError:
            await asyncio.shield(attempt.end(lambda work: work.released(now())))
            raise

    async def _carry_out(self, attempt: AnyAttempt) -> str:
        """Fetches what the task needs and runs it in a child; the lease is renewed from the first moment on."""
        supervision = Supervision(attempt, self._workspace, self._clock)
        with self._workspace.attempt() as scratch:
            try:
                async with asyncio.TaskGroup() as group:
                    beat = supervision.beat(self._settings.heartbeat_seconds)
                    beating = group.create_task(beat, name="heartbeat")
                    result = await self._in_child(supervision, await self._task(attempt, Path(scratch)))
                    beating.cancel()
            except BaseExceptionGroup as errors:  # of two at the same time either says enough
                raise errors.exceptions[0] from None
        return result

    async def _in_child(self, supervision: Supervision, task: Task) -> str:
        child = await self._nursery.take()
        self._nursery.prepare(SPARE_DELAY_SECONDS)
        try:
            return await supervision.run(child, task)
        finally:
            await child.end()

    async def _task(self, attempt: AnyAttempt, scratch: Path) -> Task:
        output = scratch / "output"
        output.mkdir()
        record = attempt.record
        if isinstance(record, Evaluation):
            return EvaluateTask(
                evaluation=record.name,
                bundle_directory=str(await self._workspace.folder(record.bundle_key)),
                directory=str(await self._workspace.snapshot(record.test)),
                output_directory=str(output),
                allowance_seconds=attempt.allowance_seconds,
                threads=self._settings.threads,
            )
        recipe = record.recipe
        if record.init_bundle_key:
            init = await self._workspace.folder(record.init_bundle_key)
            recipe = msgspec.structs.replace(recipe, init_from=str(init))
        checkpoint = record.work.checkpoint_key
        weights = self._settings.weights_dir
        return TrainTask(
            trial=record.name,
            directory=str(await self._workspace.snapshot(record.training)),
            recipe=recipe,
            allowance_seconds=attempt.allowance_seconds,
            output_directory=str(output),
            cache_directory=str(await self._workspace.cache()),
            weights_directory=str(weights) if weights else None,
            checkpoint_path=str(await self._workspace.folder(checkpoint)) if checkpoint else None,
            checkpoint_seconds=self._settings.checkpoint_seconds,
            split=Split(seed=record.seed, holdout_fraction=record.holdout_fraction),
            seed=record.seed,
            threads=self._settings.threads,
        )
