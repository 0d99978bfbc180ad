"""A batch prediction's record, and every change that is possible; `states` has the state machine.

Every change is a pure function of the record, so that it can be retried after a conflicting write. A record that is to
fail (`doomed`) stays RUNNING until a worker has written what there is of the results.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.kit import names
from services.kit.errors import Failure, QuotaExceeded, WrongState
from services.kit.leases import Lease
from services.kit.quotas import Quota, month_of
from services.predictor.batch.states import ENDED, TRANSITIONS, Event, State
from services.predictor.domain import Bundle, ImageQuery

COLLECTION = "batchPredictions"
ADVANCE = "predict-batch"  # job: do whatever is due for a batch prediction, named `batchPredictions/{id}`
PREDICT = "predict-chunk"  # job: predict one chunk of images, named `batchPredictions/{id}/chunks/{number}`
MAX_CHUNKS = 5_000  # of a batch prediction, to keep records small
ZERO = timedelta()


@dataclass(frozen=True, slots=True)
class Source:
    """Where the images are: below a prefix of keys, or in a dataset's snapshot."""

    prefix: str = ""  # ends in "/"
    dataset: str = ""  # its name
    version: int = 0  # of the dataset
    manifest_key: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the images are split into chunks; written once, after they are listed."""

    prefix: str  # of the keys of the chunks' inputs
    chunk_images: int  # in every chunk but the last
    image_count: int

    @property
    def chunk_count(self) -> int:
        """Of all images."""
        return -(-self.image_count // self.chunk_images)


@dataclass(frozen=True, slots=True)
class Tally:
    """Images with results, and those without."""

    done: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.done + self.failed

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.done + other.done, self.failed + other.failed)


@dataclass(frozen=True, slots=True)
class Output:
    """A result file."""

    file_name: str
    key: str
    size_bytes: int
    sha256: str


def prefix_of(name: str, uid: str) -> str:
    """The prefix of the blobs of the batch prediction that has, or had, this name and uid."""
    return f"{name}/{uid}/"


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Everything about a batch prediction, except for the blobs under `prefix` and `output`."""

    name: str
    uid: str  # random, so that blobs of batch predictions of the same name never mix
    bundle: Bundle
    source: Source
    output: str  # the prefix of the result files' keys, ending in "/"
    create_time: datetime
    update_time: datetime
    score_threshold: float | None = None
    max_results: int | None = None
    use_suggested_thresholds: bool = False
    display_name: str = ""
    request_id: str = ""
    state: State = State.NOT_STARTED
    generation: int = 1  # rises when the caller cancels or deletes
    lease: Lease = field(default_factory=Lease)
    plan: Plan | None = None
    # By chunk, the digest of its result: of all attempts at a chunk, the one that is named here counts.
    results: dict[int, str] = field(default_factory=dict[int, str])
    finished: Tally = field(default_factory=Tally)  # of these chunks
    partial: dict[int, Tally] = field(default_factory=dict[int, Tally])  # of others
    charged: dict[str, timedelta] = field(default_factory=dict[str, timedelta])  # compute by month
    expected: timedelta = ZERO  # compute, by the number of images and the model's cost
    allowance: timedelta | None = None  # the most it may be charged, reserved until its end; None without a quota
    outputs: tuple[Output, ...] = ()
    emptied: bool = False  # DELETING, and nothing of it is in the store any more
    error: Failure | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    traceparent: str = ""  # of the call that asked for it

    @property
    def prefix(self) -> str:
        """The prefix of its blobs: its inputs and chunks and, by default, its results."""
        return prefix_of(self.name, self.uid)

    @property
    def project(self) -> str:
        """Whose it is."""
        return names.split(self.name)[0]

    @property
    def query(self) -> ImageQuery:
        """What is asked about each image."""
        options = self.score_threshold, self.max_results, self.use_suggested_thresholds
        return ImageQuery(self.bundle.model_name, None, "", *options)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more, unless it is deleted."""
        return self.state in ENDED

    @property
    def is_deleting(self) -> bool:
        """Whether it is DELETING."""
        return self.state is State.DELETING

    @property
    def stored_bytes(self) -> int:
        """The size of the results that go with it: those that were written elsewhere are no longer its own."""
        return sum(output.size_bytes for output in self.outputs) if self.output.startswith(self.prefix) else 0

    @property
    def images_total(self) -> int:
        """0 until the images are listed."""
        return self.plan.image_count if self.plan else 0

    @property
    def tally(self) -> Tally:
        """The images so far; of chunks that are not finished only while they may be."""
        return self.finished if self.ended or self.is_deleting else self._begun

    @property
    def _begun(self) -> Tally:
        return sum(self.partial.values(), self.finished)

    @property
    def fraction(self) -> float:
        """How much is done, 0..1; never decreases."""
        if self.state is State.SUCCEEDED or self.is_deleting:
            return 1.0
        return 0.0 if self.plan is None else 0.01 + 0.97 * self._begun.total / max(1, self.images_total)

    @property
    def cost(self) -> timedelta:
        """The compute that was charged."""
        return sum(self.charged.values(), ZERO)

    @property
    def remaining(self) -> timedelta:
        """What is left of the allowance, and still reserved; nothing without one."""
        if self.allowance is None or self.ended or self.is_deleting:
            return ZERO
        return max(ZERO, self.allowance - self.cost)

    @property
    def is_predicting(self) -> bool:
        """Whether the results of chunks are wanted."""
        return self.state is State.RUNNING and self.plan is not None and self.error is None

    @property
    def missing(self) -> list[int]:
        """The chunks that are not finished."""
        return [number for number in range(self.plan.chunk_count if self.plan else 0) if number not in self.results]

    @property
    def is_to_empty(self) -> bool:
        """Whether what is due is to remove what it has in the store."""
        return self.is_deleting and not self.emptied

    @property
    def is_to_finish(self) -> bool:
        """Whether what is due is to write the results: all are there, or no more are wanted."""
        if self.state is State.CANCELLING or (self.state is State.RUNNING and self.error is not None):
            return True
        return self.is_predicting and not self.missing

    def after(self, event: Event) -> State:
        """The state after the event; WrongState if it is not possible now."""
        to = TRANSITIONS[event].get(self.state)
        if to is None:
            allowed = ", ".join(TRANSITIONS[event])
            raise WrongState(name=self.name, state=self.state, verb=event, allowed=allowed)
        return to

    def with_lease(self, lease: Lease) -> "BatchRecord":
        """Nothing else changes, not even the time of the update."""
        return replace(self, lease=lease)

    def taken(self, holder: str, now: datetime, ttl: timedelta) -> "BatchRecord":
        """(a) A worker takes the lease; LeaseLost while another holds it, WrongState if nothing is due."""
        state, lease = self.after(Event.TAKE), self.lease.taken(holder, now, ttl)
        started = self.start_time or (now if state is State.RUNNING else None)
        return replace(self, state=state, lease=lease, start_time=started, update_time=now)

    def planned(self, plan: Plan, now: datetime) -> "BatchRecord":
        """(a) The images are listed; the lease is released."""
        self.after(Event.PROGRESS)
        return replace(self, plan=plan, lease=self.lease.released(), update_time=now)

    def moved(self, number: int, tally: Tally, now: datetime, spent: timedelta = ZERO) -> "BatchRecord":
        """(a) So many images of an unfinished chunk are done; a later attempt never lowers what an earlier one said.

        If the attempt has spent what is left of the allowance, all of that is charged, and it is to fail.
        """
        self.after(Event.PROGRESS)
        if self.allowance is not None and spent >= self.remaining:
            return _exhausted(_charged(self, self.remaining, now), now)
        if number in self.results or tally.total <= self.partial.get(number, Tally()).total:
            return self
        return replace(self, partial={**self.partial, number: tally}, update_time=now)

    def predicted(self, number: int, digest: str, tally: Tally, cost: timedelta, now: datetime) -> "BatchRecord":
        """(a) A chunk is finished, and charged; idempotent: only the first attempt counts, and is charged.

        Never more than the allowance is charged. If that is used up before the last chunk, it is to fail.
        """
        self.after(Event.PROGRESS)
        if number in self.results:
            return self
        done = replace(
            _charged(self, cost if self.allowance is None else min(cost, self.remaining), now),
            results={**self.results, number: digest},
            finished=self.finished + tally,
            partial={key: value for key, value in self.partial.items() if key != number},
            update_time=now,
        )
        return _exhausted(done, now) if done.missing and done.allowance is not None and not done.remaining else done

    def doomed(self, error: Failure, now: datetime) -> "BatchRecord":
        """It cannot succeed any more; the first reason counts. WrongState unless it is to be done."""
        self.after(Event.FAIL)
        return self if self.error else replace(self, error=error, update_time=now)

    def delivered(self, outputs: tuple[Output, ...], now: datetime) -> "BatchRecord":
        """(b), (c) or (e): the results are written, whatever there is of them."""
        if self.state is State.CANCELLING:
            return self._end(Event.STOP, now, outputs)
        return self._end(Event.FAIL if self.error else Event.DELIVER, now, outputs)

    def given_up(self, error: Failure, now: datetime) -> "BatchRecord":
        """(c) or (e): not even what there is can be written."""
        if self.state is State.CANCELLING:
            return self._end(Event.STOP, now)
        return replace(self._end(Event.FAIL, now), error=self.error or error)

    def cancelled(self, now: datetime) -> "BatchRecord":
        """(d) The caller wants no more of it; idempotent."""
        if self.state in (State.CANCELLING, State.CANCELLED):
            return self
        state = self.after(Event.CANCEL)
        return replace(self, state=state, generation=self.generation + 1, error=None, update_time=now)

    def deleting(self, now: datetime) -> "BatchRecord":
        """(f) The caller wants neither it nor its results; idempotent."""
        if self.is_deleting:
            return self
        state = self.after(Event.DELETE)
        return replace(self, state=state, generation=self.generation + 1, update_time=now)

    def without_blobs(self, now: datetime) -> "BatchRecord":
        """(g) Nothing of it is in the store any more; the lease is released. WrongState unless it is DELETING."""
        self.after(Event.EMPTY)
        return replace(self, outputs=(), emptied=True, lease=self.lease.released(), update_time=now)

    def _end(self, event: Event, now: datetime, outputs: tuple[Output, ...] = ()) -> "BatchRecord":
        state, lease = self.after(event), self.lease.released()
        return replace(self, state=state, outputs=outputs, lease=lease, end_time=now, update_time=now)


def _charged(record: BatchRecord, cost: timedelta, now: datetime) -> BatchRecord:
    month = month_of(now)
    return replace(record, charged={**record.charged, month: record.charged.get(month, ZERO) + cost})


def _exhausted(record: BatchRecord, now: datetime) -> BatchRecord:
    limit = f"{(record.allowance or ZERO).total_seconds():.15g}"
    subject, setting = f"Seconds of compute of {record.name}", f"SIGHTLINE_MAX_PROJECT_{Quota.COMPUTE.upper()}"
    error = QuotaExceeded(subject=subject, value=f"more than {limit}", limit=limit, setting=setting)
    return record.doomed(error.failure(), now)
