"""Counts attempts, compute and waits of all trials and evaluations from their records, for the metrics.

Workers do not count these: a pod's counters end with it, often before they are scraped. The record has what happened
(`Work.tally`) and how much of that is counted (`Work.counted`).

Law: a replica first marks the record as counted, by compare-and-set, and only then adds what that write covers to its
own counters. So one replica counts each attempt, once, however often it reads the record; if no replica ran when the
attempt ended, the next process counts it; and the sum over all replicas is what happened. A claim identifies a write
whose answer was lost. As with any counter, what a process added after its last scrape is lost if it dies.
"""

import uuid
from typing import TypeVar

from msgspec.structs import replace

from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.consume import DEAD_LETTERS
from services.kit.errors import EtagMismatch, NotFound, SightlineError, Unavailable
from services.kit.log import Log, about
from services.kit.tasks import repeat_aside
from services.kit.telemetry import Telemetry
from services.trainer import metrics
from services.trainer.domain import Evaluation, Trial
from services.trainer.labels import Labels
from services.trainer.store import Store
from services.trainer.tally import Tally
from services.trainer.usage import keep_charges

T = TypeVar("T", Trial, Evaluation)
FIRST_SCRAPE_SECONDS = 20.0  # after the start of the process; longer than a scrape interval
EVERY_SECONDS = 2.0
NOBODY = "_none"  # the label of callers without tokens

_log = Log(__name__)


class Counts:
    """The counters of one api replica."""

    def __init__(self, store: Store, clock: Clock, telemetry: Telemetry) -> None:
        self._store = store
        self._clock = clock
        self._telemetry = telemetry
        self._callers = Labels()
        self._unanswered: dict[str, tuple[str, Tally]] = {}  # by record: writes that may have succeeded

    async def keep_going(self) -> None:
        """Counts until cancelled.

        It starts after the counters have been scraped at 0, as Prometheus ignores what a counter starts with.
        """
        await self._store.synced()
        await self._clock.sleep(FIRST_SCRAPE_SECONDS)
        await repeat_aside(self.reconcile, self._clock, EVERY_SECONDS)

    async def reconcile(self) -> None:
        """Counts everything that is not counted yet; the next pass retries records that fail."""
        for trial in self._store.trials.view.all():
            await self._reconcile_one(self._store.trials, trial.value)
        for evaluation in self._store.evaluations.view.all():
            await self._reconcile_one(self._store.evaluations, evaluation.value)

    async def delete(self, collection: Collection[T], name: str, etag: str = "") -> T:
        """Deletes a record, counts the rest of it, and returns it; a running attempt counts as cancelled.

        NotFound, EtagMismatch.

        What it was charged stays on its project's account.
        """
        while True:
            found, now = await collection.get(name), self._clock.now()
            work = found.value.work
            ended = work if work.ended else work.cancelled(now)
            await keep_charges(self._store, found.value.with_work(ended, now), now)
            try:
                await collection.delete(name, etag or found.etag)
            except EtagMismatch:
                if etag:
                    raise
                continue
            self._add(found.value, ended.tally.since(work.counted))
            return found.value

    async def _reconcile_one(self, collection: Collection[T], record: T) -> None:
        self._label(record.work.origin.caller)
        if not record.work.is_uncounted and record.name not in self._unanswered:
            return
        with about(record.name):
            try:
                await self._count(collection, record.name)
            except NotFound:
                self._unanswered.pop(record.name, None)  # counted when it was deleted
            except SightlineError as error:
                _log.info("count_postponed", problem=str(error))

    async def _count(self, collection: Collection[T], name: str) -> None:
        claim, added = self._unanswered.pop(name, (uuid.uuid4().hex, Tally()))

        def decide(record: T) -> T:
            nonlocal added
            work = record.work
            if work.counted.claim == claim:
                return record  # the write succeeded, but its answer was lost
            added = work.tally.since(work.counted)
            if not work.is_uncounted:
                return record
            return replace(record, work=replace(work, counted=replace(work.tally, claim=claim)))

        try:
            changed = await collection.change(name, decide)
        except Unavailable:
            self._unanswered[name] = claim, added
            raise
        if changed.value.work.counted.claim == claim:
            self._add(changed.value, added)

    def _label(self, caller: str) -> str:
        """The caller's; a new one's counter begins at 0."""
        if self._callers.admit(name := caller or NOBODY):
            self._telemetry.add(metrics.CALLER_COMPUTE_SECONDS, 0, caller=name)
        return self._callers.of(name)

    def _add(self, record: Trial | Evaluation, added: Tally) -> None:
        telemetry, work = self._telemetry, record.work
        kind = "trial" if isinstance(record, Trial) else "evaluation"
        if added.started and work.start_time is not None:
            telemetry.observe(metrics.WAIT_SECONDS, (work.start_time - work.create_time).total_seconds(), kind=kind)
        for result, count in added.ends.items():
            telemetry.add(metrics.ATTEMPTS, count, kind=kind, result=result)
        if added.given_up:
            telemetry.add(DEAD_LETTERS, 1, kind=kind)
        charged = added.charged.total_seconds()
        telemetry.add(metrics.COMPUTE_SECONDS, charged, charged="true")
        if charged:
            telemetry.add(metrics.CALLER_COMPUTE_SECONDS, charged, caller=self._label(work.origin.caller))
        telemetry.add(metrics.COMPUTE_SECONDS, added.uncharged.total_seconds(), charged="false")
