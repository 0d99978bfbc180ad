"""The loop of every worker: fetches jobs of one kind from the queue, handles them, and settles each one."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from services.kit.clock import Clock
from services.kit.errors import Conflict, SightlineError
from services.kit.log import Log
from services.kit.queue import MAX_DELIVERIES, Delivery, Queue, is_poison, span_of
from services.kit.telemetry import Metric, MetricKind, Telemetry
from services.kit.tracing import Span, SpanKind


class Settled(StrEnum):
    """How a delivery was settled."""

    DONE = "done"
    SUPERSEDED = "superseded"  # another worker holds the lease
    RELEASED = "released"
    RETRIED = "retried"  # later, after a retryable error
    FAILED = "failed"  # and will be tried again until it is poison
    POISONED = "poisoned"
    UNSETTLED = "unsettled"


JOBS = Metric(
    "sightline_jobs_total",
    MetricKind.COUNTER,
    "Deliveries of jobs, by how they were settled.",
    ("kind", "result"),
    values=((), tuple(Settled)),
)
RUNNING = Metric("sightline_jobs_running", MetricKind.GAUGE, "Jobs that this process is handling.", ("kind",))

QUEUED = Metric(
    "sightline_jobs_queued", MetricKind.GAUGE, "Jobs in the queue, waiting or in flight, as the apis see it.", ("kind",)
)
DEAD_LETTERS = Metric(
    "sightline_dead_letters_total",
    MetricKind.COUNTER,
    "Work given up because every attempt died.",
    ("kind",),
    values=(("dataset", "trial", "evaluation", "batch"),),
)

_FETCH_WAIT = timedelta(seconds=2)  # also how long an idle worker takes to stop
_FIRST_DELAY_SECONDS = 5.0
_LONGEST_DELAY_SECONDS = 300.0

_FAILURES = frozenset({Settled.RETRIED, Settled.FAILED, Settled.POISONED, Settled.UNSETTLED})

Handler = Callable[[bytes], Awaitable[None]]


class Released(Exception):
    """The handler gives the job back, unharmed: it is delivered again at once, to any worker."""


_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """How to handle one kind of job.

    `handle` returns once the record says that the work is done. It must be idempotent, as a job may be delivered twice,
    even at the same time. `poison` marks the resource as failed, unless it has a live lease.
    """

    kind: str
    handle: Handler
    poison: Handler


def delay_after(deliveries: int) -> timedelta:
    """How long a job waits after its n-th failed delivery: 5 s, 20 s, 80 s, then 5 min."""
    return timedelta(seconds=min(_FIRST_DELAY_SECONDS * 4 ** (deliveries - 1), _LONGEST_DELAY_SECONDS))


async def consume(
    queue: Queue,
    job: Job,
    *,
    clock: Clock,
    telemetry: Telemetry,
    stop: asyncio.Event,
    concurrency: int = 1,
    grace: timedelta = timedelta(seconds=20),
    ready: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Handles jobs, `concurrency` at a time, until `stop` is set; then gives running handlers `grace` to finish.

    Each fetch waits for `ready`, so that a process that cannot work leaves jobs to others; what it raises ends this.

    A job is acked when its handler returns or raises Conflict: then another worker holds the record's lease, and a
    reconciler publishes the job again if that worker dies. A job is delivered again at once when its handler raises
    Released or is cancelled by the stop, and after a delay when it raises anything else. A job that failed
    MAX_DELIVERIES times goes to `poison`; but an outage is not the job's fault, so after a retryable error its count
    starts over.

    Each delivery is a span in the trace that the job carries; a repeated one is also linked to the job's publication,
    from which it may be days away.
    """
    worker = _Worker(queue, job, clock, telemetry, stop, grace, ready)
    async with asyncio.TaskGroup() as group:
        for number in range(concurrency):
            group.create_task(worker.run(), name=f"{job.kind} jobs {number}")


@dataclass(frozen=True, slots=True)
class _Worker:
    queue: Queue
    job: Job
    clock: Clock
    telemetry: Telemetry
    stop: asyncio.Event
    grace: timedelta
    ready: Callable[[], Awaitable[None]] | None

    async def run(self) -> None:
        while not self.stop.is_set():
            if self.ready:
                await self.ready()
            if delivery := await self.queue.fetch(self.job.kind, _FETCH_WAIT):
                with self._span(delivery) as span:
                    result = await self._settle(delivery)
                    self.telemetry.add(JOBS, 1, kind=self.job.kind, result=result)
                    span.set("sightline.job.result", result)
                    if result in _FAILURES:
                        span.fail(result)

    def _span(self, delivery: Delivery) -> AbstractContextManager[Span]:
        name, attributes = span_of("process", delivery.kind)
        attributes = {**attributes, "sightline.job.delivery": delivery.deliveries}
        origin, links = delivery.trace, ()
        if delivery.deliveries > 1:
            links = (origin,) if origin else ()
        elif origin:
            self.telemetry.tracer.add_span("queue wait", delivery.age.total_seconds(), attributes, parent=origin)
        return self.telemetry.tracer.span(name, attributes, kind=SpanKind.CONSUMER, parent=origin, links=links)

    async def _settle(self, delivery: Delivery) -> Settled:
        """Handles the delivery and settles it; never raises."""
        try:
            return await self._attempt(delivery)
        except Exception as error:  # noqa: BLE001 - an unsettled job is delivered again
            _log.warning("job_unsettled", kind=self.job.kind, problem=str(error))
            return Settled.UNSETTLED

    async def _attempt(self, delivery: Delivery) -> Settled:
        poisoned = is_poison(delivery)
        try:
            finished = await self._handle(self.job.poison if poisoned else self.job.handle, delivery)
        except Released:
            finished = False
        except Conflict as error:
            _log.info("job_superseded", kind=self.job.kind, problem=error.message)
            await delivery.ack()
            return Settled.SUPERSEDED
        except Exception as error:  # noqa: BLE001 - one job's failure must not end the worker
            return await self._retry(delivery, error)
        if not finished:
            await delivery.nak()
            return Settled.RELEASED
        await delivery.ack()
        return Settled.POISONED if poisoned else Settled.DONE

    async def _retry(self, delivery: Delivery, error: Exception) -> Settled:
        """Delays the job; one whose deliveries an outage has all but used up is published again as a new one.

        The last delivery is for the case that the outage prevents that, too.
        """
        outage = isinstance(error, SightlineError) and error.retry
        if outage:
            _log.warning("job_waits", kind=self.job.kind, deliveries=delivery.deliveries, problem=str(error))
        else:
            _log.error("job_failed", error, kind=self.job.kind, deliveries=delivery.deliveries)
        if outage and delivery.deliveries >= MAX_DELIVERIES - 1:
            await self.queue.publish(self.job.kind, delivery.body)
            await delivery.ack()
        else:
            await delivery.nak(delay_after(delivery.deliveries))
        return Settled.RETRIED if outage else Settled.FAILED

    async def _handle(self, handler: Handler, delivery: Delivery) -> bool:
        """Runs the handler while renewing the lease; False if the stop cancelled it. Raises what the handler raises."""
        self.telemetry.add(RUNNING, 1, kind=self.job.kind)
        work = asyncio.ensure_future(handler(delivery.body))
        helpers = [
            asyncio.create_task(self._extend(delivery), name=f"extend {self.job.kind}"),
            asyncio.create_task(self._cancel_after_stop(work), name=f"stop {self.job.kind}"),
        ]
        try:
            await asyncio.wait([work])
        finally:  # also when this worker is cancelled
            for task in (work, *helpers):
                task.cancel()
            await asyncio.gather(work, *helpers, return_exceptions=True)
            self.telemetry.add(RUNNING, -1, kind=self.job.kind)
        if work.cancelled():
            return False
        await work
        return True

    async def _extend(self, delivery: Delivery) -> None:
        """Keeps the job invisible to others; a failure does no harm, as the record's lease decides."""
        while True:
            await self.clock.sleep(self.queue.ack_wait.total_seconds() / 3)
            try:
                await delivery.extend()
            except Exception as error:  # noqa: BLE001 - it does no harm, see above
                _log.warning("job_extend_failed", kind=self.job.kind, problem=str(error))

    async def _cancel_after_stop(self, work: "asyncio.Future[None]") -> None:
        await self.stop.wait()
        await self.clock.sleep(self.grace.total_seconds())
        work.cancel()
