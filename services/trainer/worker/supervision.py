"""What the worker does while a child runs: reports, stores checkpoints and results, and enforces the allowance."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec

from services.kit import codec
from services.kit.clock import Clock
from services.kit.errors import Unavailable
from services.kit.log import Log
from services.kit.names import parent
from services.kit.tasks import alongside, repeat
from services.kit.telemetry import Telemetry
from services.trainer import metrics
from services.trainer.coverage import in_record
from services.trainer.domain import TrialResult
from services.trainer.export import Archive
from services.trainer.messages import (
    Checkpoint,
    EvaluationResult,
    Exported,
    Failed,
    Message,
    Offer,
    Probed,
    Progress,
    Result,
    Task,
    has_checkpoints,
)
from services.trainer.performance import Performance
from services.trainer.tally import AttemptResult
from services.trainer.work import Work
from services.trainer.worker.attempt import AnyAttempt
from services.trainer.worker.checkpoints import Checkpoints
from services.trainer.worker.child_pool import Child, ChildDied
from services.trainer.worker.workspace import Workspace
from services.vision.sealing import digest_of
from services.vision.signing import Signer

MAX_TAGS_IN_RECORD = 100
OUTAGE_SECONDS = 2.0  # between two attempts to record what must not be lost
LAST_SECONDS = 30.0  # for a last checkpoint, or the result, when the worker has to stop

_log = Log(__name__)

Last = Result | EvaluationResult | Probed | Exported | Failed


class Stopped(Exception):
    """The worker has to stop, and has saved what it could of this attempt."""


class Supervision:
    """Supervises one attempt. A delivered result survives outages of the store and the records."""

    def __init__(
        self,
        attempt: AnyAttempt,
        workspace: Workspace,
        clock: Clock,
        telemetry: Telemetry,
        signer: Signer | None = None,
    ) -> None:
        self._attempt = attempt
        self._workspace = workspace
        self._clock = clock
        self._telemetry = telemetry
        self._signer = signer  # of bundles
        self._prefix = f"{attempt.record.blob_prefix}{attempt.record.work.attempt}/"
        self._began: float | None = None
        self._delivered: timedelta | None = None
        self._fraction = 0.0
        self._phase = "preparing"
        self._phase_since: float | None = None
        self._phase_began: float | None = None
        self.batch_size_limit = 0  # that the child has found, if it has delivered
        self._offered: Result | None = None
        self._checkpoints: Checkpoints | None = None  # of a child that saves checkpoints

    async def beat(self, every_seconds: float) -> None:
        """Reports until cancelled; keeps trying through outages, as the lease decides. CancelRequested, LeaseLost."""

        async def report() -> None:
            await self._attempt.beat(self._used, self._fraction, self._phase)

        await repeat(report, partial(self._clock.sleep, every_seconds), survives=Unavailable)

    async def give_up(self, stop: asyncio.Event) -> None:
        """Waits for `stop`, then for a last checkpoint or for a delivered result to be stored; Stopped."""
        await stop.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                if self._delivered is not None:
                    await asyncio.Event().wait()  # the end of the attempt cancels this
                elif self._checkpoints is not None:
                    await self._checkpoints.save_last()
        raise Stopped

    @property
    def _used(self) -> timedelta:
        """How long the child worked: from its task to its last message, without storing the result."""
        if self._delivered is not None:
            return self._delivered
        return timedelta(seconds=0.0 if self._began is None else self._clock.monotonic() - self._began)

    async def run(self, child: Child, task: Task) -> AttemptResult:
        """Gives the child its task, records the outcome and returns the attempt's result. ChildDied.

        When the allowance is used up, the child is ended, and its last offer is the result.
        """
        checkpoints = Checkpoints(child, self._attempt, self._workspace, self._prefix, self._clock)
        self._checkpoints = checkpoints if has_checkpoints(task) else None
        async with alongside(checkpoints=checkpoints.store()):  # until the end: nobody resumes what has ended
            try:
                last = await self._hear(child, task, checkpoints)
            except ChildDied:
                await checkpoints.settled()  # so that what it saved is not lost
                raise
        self._count_phase()
        match last:
            case None:
                await self.end(lambda work: work.stopped(self._clock.now()))
                return AttemptResult.STOPPED
            case Failed(failure=failure, traceback=traceback):
                _log.warning("task_failed", reason=failure.reason, problem=failure.message, traceback=traceback)
                await self.end(lambda work: work.failed(self._clock.now(), failure))
                return AttemptResult.FAILED
            case Result():
                await self._through_outages(lambda: self._keep_trial(last))
            case EvaluationResult():
                await self._through_outages(lambda: self._keep_evaluation(last))
            case Probed(probe=probe, used=used):
                await self._through_outages(
                    lambda: self._attempt.succeed(used, probe=probe, device_factor=self._attempt.factor)
                )
                _log.info("estimate_delivered", device=probe.device, seconds=used.total_seconds())
            case Exported():
                await self._through_outages(lambda: self._keep_export(last))
        return AttemptResult.SUCCEEDED

    async def end(self, how: Callable[[Work], Work]) -> None:
        """Records the end of the attempt, retrying through outages; LeaseLost."""
        await self._through_outages(lambda: self._attempt.end(how))

    async def _hear(self, child: Child, task: Task, checkpoints: Checkpoints) -> Last | None:
        """The child's last message; if the allowance is used up first, its last offer or None. ChildDied."""
        self._began = self._clock.monotonic()
        allowance = self._attempt.allowance
        deadline = asyncio.timeout(allowance.total_seconds())
        try:
            async with deadline, aclosing(child.run(task)) as messages:
                return await self._listen(messages, checkpoints)
        except TimeoutError:
            if not deadline.expired():
                raise
            await child.end()
            if self._offered is None:
                return None
            return msgspec.structs.replace(self._offered, used=allowance, stop_reason="allowance")
        finally:
            self._delivered = self._used
            self._trace_phase()

    async def _listen(self, messages: AsyncGenerator[Message], checkpoints: Checkpoints) -> Last:
        """Handles the child's messages and returns the last one."""
        async for message in messages:
            match message:
                case Progress(fraction=fraction, phase=phase):
                    self._count_phase()
                    if phase != self._phase:
                        self._trace_phase()
                    self._fraction, self._phase = fraction, phase
                case Checkpoint():
                    checkpoints.arrived(message)
                case Offer(result=result):
                    self._offered = result
                case Result() | EvaluationResult() | Probed() | Exported() | Failed():
                    return message
                case _:  # Ready was read at the start
                    pass
        raise ChildDied("the training process ended without a result")

    def _count_phase(self) -> None:
        """Adds the time since the last call to the metric of the child's current phase."""
        now = self._clock.monotonic()
        since = self._began if self._phase_since is None else self._phase_since
        self._telemetry.add(metrics.PHASE_SECONDS, max(0.0, now - (now if since is None else since)), phase=self._phase)
        self._phase_since = now

    def _trace_phase(self) -> None:
        """Adds the span of the child's phase that ends now; the child itself traces nothing."""
        now = self._clock.monotonic()
        began = self._began if self._phase_began is None else self._phase_began
        self._telemetry.tracer.add_span(f"child {self._phase}", now - (now if began is None else began))
        self._phase_began = now

    async def _keep_trial(self, result: Result) -> None:
        self.batch_size_limit = result.batch_size_limit
        keys = await self._upload(result.predictions_path, result.performance)
        insight_key = f"{self._prefix}insight.json"
        await self._workspace.blobs.put(insight_key, codec.encode(result.insight))
        bundle = Path(result.bundle_directory)
        digest = await asyncio.to_thread(digest_of, bundle)
        await self._workspace.upload(bundle, f"{self._prefix}bundle/")
        if (features := result.features) is not None:
            features = msgspec.structs.replace(features, saved=self._attempt.on_reference(features.saved))
        kept = TrialResult(
            score=result.selection_score,
            standard_error=result.standard_error,
            score_interval=result.selection_interval,
            log_loss=result.selection_log_loss,
            bundle_key=f"{self._prefix}bundle/",
            bundle_digest=digest,
            bundle_bytes=await asyncio.to_thread(_size_of, bundle),
            bundle_signature=self._signer.sign(parent(self._attempt.name), digest) if self._signer else "",
            predictions_key=keys[0],
            performance_key=keys[1],
            insight_key=insight_key,
            performance=_summary(result.performance),
            weights_source=result.weights_source,
            weights=result.weights,
            resolution=result.resolution,
            networks=result.networks,
            backbones=result.backbones,
            epochs=result.epochs,
            warnings=result.warnings,
            boxes=result.boxes,
            prediction_seconds=result.prediction_seconds,
            mirror=result.mirror,
            features=features,
            names=result.names,
        )
        checkpoint = self._attempt.record.work.checkpoint_key
        await self._attempt.succeed(result.used, result=kept)
        _log.info("trial_delivered", stop_reason=result.stop_reason, epochs=result.epochs, numerics=result.numerics)
        if result.numerics:
            self._telemetry.add(metrics.NUMERICS, 1, numerics=result.numerics)
        if checkpoint:
            await self._workspace.forget(checkpoint)

    async def _keep_evaluation(self, result: EvaluationResult) -> None:
        _, performance_key = await self._upload(result.predictions_path, result.performance)
        await self._attempt.succeed(
            result.used,
            performance=_summary(result.performance),
            performance_key=performance_key,
            findings=result.findings,
        )

    async def _keep_export(self, made: Exported) -> None:
        path = Path(made.path)
        key, size = f"{self._prefix}{made.sha256}.zip", (await asyncio.to_thread(path.stat)).st_size
        await self._workspace.blobs.put_file(key, path)
        archive = Archive(
            key=key, file_name=path.name, size_bytes=size, sha256=made.sha256, max_difference=made.max_difference
        )
        await self._attempt.succeed(made.used, archive=archive)
        _log.info("export_delivered", size_bytes=size, sha256=made.sha256, max_difference=made.max_difference)

    async def _upload(self, predictions_path: str, performance: Performance) -> tuple[str, str]:
        """Stores what both kinds of work deliver; returns the keys of predictions and performance."""
        keys = f"{self._prefix}predictions.msgpack", f"{self._prefix}performance.json"
        await self._workspace.blobs.put_file(keys[0], Path(predictions_path))
        await self._workspace.blobs.put(keys[1], codec.encode(performance))
        return keys

    async def _through_outages(self, keep: Callable[[], Awaitable[None]]) -> None:
        """Retries until it succeeds; the heartbeat cancels it if the lease is lost."""
        while True:
            try:
                return await keep()
            except Unavailable as error:
                _log.warning("result_waits", problem=str(error))
                await self._clock.sleep(OUTAGE_SECONDS)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _summary(performance: Performance) -> Performance:
    """The part that fits into a record: no curves or matrix, per-tag metrics only of few categories, few names."""
    tags = performance.tag_performance if len(performance.tag_performance) <= MAX_TAGS_IN_RECORD else {}
    performance = replace(performance, coverage=in_record(performance.coverage) if performance.coverage else None)
    performance = replace(performance, confusion_matrix=(), precision_recall_curves={}, calibration_bins=())
    return replace(performance, categories=(), tag_performance=tags)
