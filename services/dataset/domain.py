"""A dataset as its record keeps it: the life it leads, and every change that may be made to it.

                 ┌──────(a) progress──────┐
                 ▼                        │
    (create) ─▶ VALIDATING ───────────────┘
                 │(b) accept    │(c) refuse    (d) ask for deletion, from every state
                 ▼              ▼
               READY          FAILED  ──(d)──▶ DELETING ──▶ (gone)

Every change is a pure function of the record, so that it can be applied again after a lost race.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.kit.errors import Failure, WrongState
from services.kit.leases import Lease
from services.vision.snapshot import AnnotationKind

COLLECTION = "datasets"
ADVANCE = "ingest-dataset"  # job: do whatever is due for a dataset; its name is `datasets/{dataset}`
CHECK = "ingest-chunk"  # job: check one chunk of images; its name is `datasets/{dataset}/chunks/{number}`
INLINE_CATEGORIES = 100  # more categories than this stand in the manifest only, so that records stay small


class State(StrEnum):
    """Where a dataset is in its life."""

    VALIDATING = "VALIDATING"
    READY = "READY"
    FAILED = "FAILED"
    DELETING = "DELETING"


class Event(StrEnum):
    """What can happen to a dataset."""

    PROGRESS = "progress"
    ACCEPT = "accept"
    REFUSE = "refuse"
    UPDATE = "update"
    DELETE = "delete"


TRANSITIONS: dict[Event, dict[State, State]] = {
    Event.PROGRESS: {State.VALIDATING: State.VALIDATING},
    Event.ACCEPT: {State.VALIDATING: State.READY},
    Event.REFUSE: {State.VALIDATING: State.FAILED},
    Event.UPDATE: {state: state for state in (State.VALIDATING, State.READY, State.FAILED)},
    Event.DELETE: dict.fromkeys(State, State.DELETING),
}


class Phase(StrEnum):
    """The steps of validation, in order."""

    WAITING = "PHASE_UNSPECIFIED"
    READING = "READING_ANNOTATIONS"
    CHECKING = "CHECKING_IMAGES"
    WRITING = "WRITING_SNAPSHOT"
    FINISHED = "FINISHED"


_FRACTION = {Phase.WAITING: 0.0, Phase.READING: 0.01, Phase.WRITING: 0.95, Phase.FINISHED: 1.0}


class BoxConvention(StrEnum):
    """The unit in which boxes are written."""

    UNKNOWN = "BOX_CONVENTION_UNSPECIFIED"
    ABSOLUTE = "ABSOLUTE"
    RELATIVE = "RELATIVE"


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """How often one category occurs in the snapshot."""

    name: str
    image_count: int
    annotation_count: int


@dataclass(frozen=True, slots=True)
class Stats:
    """What the snapshot holds; `categories` is empty if there are more than INLINE_CATEGORIES."""

    image_count: int = 0
    annotation_count: int = 0
    category_count: int = 0
    byte_count: int = 0
    categories: tuple[CategoryCount, ...] = ()


@dataclass(frozen=True, slots=True)
class FindingCounts:
    """How many findings are listed, by severity."""

    error: int = 0
    warning: int = 0
    info: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How the images were cut into chunks of work; written once, when the annotation files have been read."""

    prefix: str  # the chunks' inputs lie below this key
    chunk_count: int
    image_count: int  # images that the annotation files name
    refused_count: int  # of these, refused before any was read


@dataclass(frozen=True, slots=True)
class Chunks:
    """Which chunks are checked: a bitmap in hex, and how many images were checked so far, also in unfinished ones."""

    done: str = "0"
    images_done: int = 0
    partial: dict[str, int] = field(default_factory=dict[str, int])

    def has(self, number: int) -> bool:
        """Whether the chunk is finished."""
        return bool(int(self.done, 16) >> number & 1)

    def missing(self, count: int) -> list[int]:
        """The unfinished ones of `count` chunks."""
        bits = int(self.done, 16)
        return [number for number in range(count) if not bits >> number & 1]

    def moved(self, number: int, images: int) -> "Chunks":
        """After `images` of an unfinished chunk; a repeated attempt never takes back what an earlier one reported."""
        if self.has(number) or images <= self.partial.get(str(number), 0):
            return self
        return replace(self, partial={**self.partial, str(number): images})

    def finished(self, number: int, images: int) -> "Chunks":
        """After the whole chunk; the same again changes nothing."""
        if self.has(number):
            return self
        bits = int(self.done, 16) | 1 << number
        partial = {key: value for key, value in self.partial.items() if key != str(number)}
        return Chunks(f"{bits:x}", self.images_done + images, partial)


@dataclass(frozen=True, slots=True)
class NewDataset:
    """What a caller asks to register."""

    dataset_id: str
    annotation_kind: AnnotationKind | None
    annotation_file_uris: tuple[str, ...]
    display_name: str = ""
    custom_properties: dict[str, str] = field(default_factory=dict[str, str])
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """Everything that is known of a dataset, save what lies in blobs under `prefix`."""

    name: str
    uid: str  # of this creation, so that the blobs of a namesake never mix with these
    annotation_kind: AnnotationKind
    annotation_file_uris: tuple[str, ...]
    create_time: datetime
    update_time: datetime
    display_name: str = ""
    custom_properties: dict[str, str] = field(default_factory=dict[str, str])
    request_id: str = ""
    state: State = State.VALIDATING
    generation: int = 1  # jobs of an older one are dropped
    lease: Lease = field(default_factory=Lease)
    phase: Phase = Phase.WAITING
    plan: Plan | None = None
    chunks: Chunks = field(default_factory=Chunks)
    box_convention: BoxConvention = BoxConvention.UNKNOWN
    stats: Stats | None = None
    finding_counts: FindingCounts = field(default_factory=FindingCounts)
    findings_key: str = ""  # of the findings' index
    manifest_key: str = ""
    snapshot_digest: str = ""
    error: Failure | None = None

    @property
    def root(self) -> str:
        """The key under which every blob of every creation of this name lies."""
        return f"{self.name}/"

    @property
    def prefix(self) -> str:
        """The key under which this creation's blobs lie."""
        return f"{self.name}/{self.uid}"

    @property
    def images_total(self) -> int:
        """Images that the annotation files name; 0 until they are read."""
        return self.plan.image_count if self.plan else 0

    @property
    def images_done(self) -> int:
        """Images checked so far; never falls."""
        if self.plan is None:
            return 0
        found = self.plan.refused_count + self.chunks.images_done + sum(self.chunks.partial.values())
        return min(found, self.plan.image_count)

    @property
    def fraction(self) -> float:
        """How much of validation is done, 0..1; never falls."""
        if self.phase is not Phase.CHECKING:
            return _FRACTION[self.phase]
        return min(0.05 + 0.9 * self.images_done / max(1, self.images_total), _FRACTION[Phase.WRITING])

    @property
    def is_checked(self) -> bool:
        """Whether every chunk is finished, so that the snapshot can be written."""
        return self.plan is not None and not self.chunks.missing(self.plan.chunk_count)

    def after(self, event: Event) -> State:
        """The state that the event leads to; WrongState if it cannot happen now."""
        to = TRANSITIONS[event].get(self.state)
        if to is None:
            allowed = ", ".join(TRANSITIONS[event])
            raise WrongState(name=self.name, state=self.state, verb=event, allowed=allowed)
        return to

    def taken(self, holder: str, now: datetime, ttl: timedelta) -> "DatasetRecord":
        """(a) A worker takes it up; LeaseLost while another holds it, WrongState when nothing is due."""
        if self.state is State.DELETING:
            return replace(self, lease=self.lease.taken(holder, now, ttl), update_time=now)
        phase = Phase.READING if self.plan is None else Phase.WRITING if self.is_checked else self.phase
        self.after(Event.PROGRESS)
        return replace(self, lease=self.lease.taken(holder, now, ttl), phase=phase, update_time=now)

    def planned(self, plan: Plan, convention: BoxConvention, now: datetime) -> "DatasetRecord":
        """(a) The annotation files are read; the worker that read them lets go."""
        self.after(Event.PROGRESS)
        return replace(
            self,
            plan=plan,
            chunks=Chunks(),
            phase=Phase.CHECKING,
            box_convention=convention,
            lease=self.lease.released(),
            update_time=now,
        )

    def checked(self, chunks: Chunks, now: datetime) -> "DatasetRecord":
        """(a) More images are checked."""
        self.after(Event.PROGRESS)
        return self if chunks == self.chunks else replace(self, chunks=chunks, update_time=now)

    def accepted(
        self, stats: Stats, digest: str, manifest_key: str, findings: tuple[str, FindingCounts], now: datetime
    ) -> "DatasetRecord":
        """(b) The snapshot stands."""
        return replace(
            self,
            state=self.after(Event.ACCEPT),
            phase=Phase.FINISHED,
            stats=stats,
            snapshot_digest=digest,
            manifest_key=manifest_key,
            findings_key=findings[0],
            finding_counts=findings[1],
            lease=self.lease.released(),
            update_time=now,
        )

    def refused(
        self, error: Failure, now: datetime, findings: tuple[str, FindingCounts] | None = None
    ) -> "DatasetRecord":
        """(c) There will be no snapshot; `error` says why."""
        key, counts = findings or (self.findings_key, self.finding_counts)
        return replace(
            self,
            state=self.after(Event.REFUSE),
            error=error,
            findings_key=key,
            finding_counts=counts,
            lease=self.lease.released(),
            update_time=now,
        )

    def updated(self, now: datetime, **values: object) -> "DatasetRecord":
        """The caller's own fields change."""
        self.after(Event.UPDATE)
        return replace(self, update_time=now, **values)

    def deleting(self, now: datetime) -> "DatasetRecord":
        """(d) Nothing but removal follows; asked again, nothing changes."""
        if self.state is State.DELETING:
            return self
        return replace(self, state=self.after(Event.DELETE), generation=self.generation + 1, update_time=now)
