"""A dataset's record: its state machine, and every change that is possible.

                 ┌──────(a) progress──────┐
                 ▼                        │
    (create) ─▶ VALIDATING ───────────────┘ ◀──(e) revise, from READY and FAILED
                 │(b) accept    │(c) refuse    (d) delete, from every state
                 ▼              ▼
               READY          FAILED  ──(d)──▶ DELETING ──▶ (gone)

Every change is a pure function of the record, so that it can be retried after a conflicting write.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.kit.errors import Failure, WrongState
from services.kit.leases import Lease
from services.vision.snapshot import AnnotationKind

COLLECTION = "datasets"
ADVANCE = "ingest-dataset"  # job: do whatever is due for a dataset, named `datasets/{dataset}`
CHECK = "ingest-chunk"  # job: check one chunk of images, named `datasets/{dataset}/chunks/{number}`
MAX_VERSIONS = 100  # of a dataset, to keep records small
MAX_REQUEST_IDS = 200  # of earlier calls
INLINE_CATEGORIES = 100  # beyond this, categories are only in the manifest, to keep records small


class State(StrEnum):
    """The state of a dataset."""

    VALIDATING = "VALIDATING"
    READY = "READY"
    FAILED = "FAILED"
    DELETING = "DELETING"


class Event(StrEnum):
    """The events of the state machine."""

    PROGRESS = "progress"
    ACCEPT = "accept"
    REFUSE = "refuse"
    UPDATE = "update"
    REVISE = "revise"
    DELETE = "delete"


TRANSITIONS: dict[Event, dict[State, State]] = {
    Event.PROGRESS: {State.VALIDATING: State.VALIDATING},
    Event.ACCEPT: {State.VALIDATING: State.READY},
    Event.REFUSE: {State.VALIDATING: State.FAILED},
    Event.UPDATE: {state: state for state in (State.VALIDATING, State.READY, State.FAILED)},
    Event.REVISE: {State.READY: State.VALIDATING, State.FAILED: State.VALIDATING},
    Event.DELETE: dict.fromkeys(State, State.DELETING),
}


class Phase(StrEnum):
    """The steps of a validation, in order."""

    WAITING = "PHASE_UNSPECIFIED"
    READING = "READING_ANNOTATIONS"
    CHECKING = "CHECKING_IMAGES"
    WRITING = "WRITING_SNAPSHOT"
    FINISHED = "FINISHED"


_FRACTION = {Phase.WAITING: 0.0, Phase.READING: 0.01, Phase.WRITING: 0.95, Phase.FINISHED: 1.0}


class BoxConvention(StrEnum):
    """The unit of a dataset's boxes."""

    UNKNOWN = "BOX_CONVENTION_UNSPECIFIED"
    ABSOLUTE = "ABSOLUTE"
    RELATIVE = "RELATIVE"


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """How often a category occurs in the snapshot."""

    name: str
    image_count: int
    annotation_count: int


@dataclass(frozen=True, slots=True)
class Stats:
    """The snapshot's contents in numbers; `categories` is empty if there are more than INLINE_CATEGORIES."""

    image_count: int = 0
    annotation_count: int = 0
    category_count: int = 0
    byte_count: int = 0
    stored_bytes: int = 0  # of the packed images; 0 of earlier versions
    categories: tuple[CategoryCount, ...] = ()


@dataclass(frozen=True, slots=True)
class FindingCounts:
    """The number of listed findings, by severity."""

    error: int = 0
    warning: int = 0
    info: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How the images are split into chunks; written once, after the annotation files are read."""

    prefix: str  # of the keys of the chunks' inputs
    chunk_count: int
    image_count: int  # images that the annotation files list
    refused_count: int  # of these, refused before any image was read


@dataclass(frozen=True, slots=True)
class Chunks:
    """Which chunks are checked, as a bitmap in hex, and how many images, including those of unfinished chunks."""

    done: str = "0"
    images_done: int = 0
    partial: dict[str, int] = field(default_factory=dict[str, int])

    def has(self, number: int) -> bool:
        """Whether the chunk is finished."""
        return bool(int(self.done, 16) >> number & 1)

    def missing(self, count: int) -> list[int]:
        """The unfinished chunks among `count`."""
        bits = int(self.done, 16)
        return [number for number in range(count) if not bits >> number & 1]

    def moved(self, number: int, images: int) -> "Chunks":
        """After `images` of an unfinished chunk; a later attempt never lowers what an earlier one reported."""
        if self.has(number) or images <= self.partial.get(str(number), 0):
            return self
        return replace(self, partial={**self.partial, str(number): images})

    def finished(self, number: int, images: int) -> "Chunks":
        """After the whole chunk; idempotent."""
        if self.has(number):
            return self
        bits = int(self.done, 16) | 1 << number
        partial = {key: value for key, value in self.partial.items() if key != str(number)}
        return Chunks(f"{bits:x}", self.images_done + images, partial)


@dataclass(frozen=True, slots=True)
class Version:
    """An earlier version of a dataset, whose snapshot is kept."""

    number: int
    snapshot_digest: str
    manifest_key: str
    image_count: int
    annotation_count: int
    create_time: datetime  # when its files were registered
    stored_bytes: int = 0  # of the packed images


@dataclass(frozen=True, slots=True)
class NewDataset:
    """A caller's request to register a dataset."""

    dataset_id: str
    annotation_kind: AnnotationKind | None
    annotation_file_uris: tuple[str, ...]
    display_name: str = ""
    custom_properties: dict[str, str] = field(default_factory=dict[str, str])
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """Everything about a dataset, except for the blobs under `prefix`."""

    name: str
    uid: str  # random, so that blobs of datasets of the same name never mix
    annotation_kind: AnnotationKind
    annotation_file_uris: tuple[str, ...]
    create_time: datetime
    update_time: datetime
    display_name: str = ""
    custom_properties: dict[str, str] = field(default_factory=dict[str, str])
    request_id: str = ""
    state: State = State.VALIDATING
    generation: int = 1  # jobs of older generations are dropped
    lease: Lease = field(default_factory=Lease)
    phase: Phase = Phase.WAITING
    plan: Plan | None = None
    chunks: Chunks = field(default_factory=Chunks)
    box_convention: BoxConvention = BoxConvention.UNKNOWN
    stats: Stats | None = None
    finding_counts: FindingCounts = field(default_factory=FindingCounts)
    findings_key: str = ""  # of the index of findings
    manifest_key: str = ""
    snapshot_digest: str = ""
    error: Failure | None = None
    version: int = 1
    version_time: datetime | None = None  # when the files of this version were registered; None for the first
    versions: tuple[Version, ...] = ()  # the earlier ones, each with its snapshot
    traceparent: str = ""  # of the call that registered its files
    earlier_request_ids: tuple[str, ...] = ()  # of the calls that registered earlier files, those that failed too

    @property
    def prefix(self) -> str:
        """The prefix of this dataset's blobs."""
        return f"{self.name}/{self.uid}"

    @property
    def packs(self) -> str:
        """The prefix of this version's shards, which no other version, not even a failed one, has."""
        return f"{self.prefix}/packs/" if self.version_time is None else f"{self.prefix}/packs-{self.generation}/"

    @property
    def stored_bytes(self) -> int:
        """Of the packed images, those of earlier versions among them."""
        return (self.stats.stored_bytes if self.stats else 0) + sum(one.stored_bytes for one in self.versions)

    @property
    def images_total(self) -> int:
        """Images that the annotation files list; 0 until they are read."""
        return self.plan.image_count if self.plan else 0

    @property
    def images_done(self) -> int:
        """Images checked so far; never decreases."""
        if self.plan is None:
            return 0
        found = self.plan.refused_count + self.chunks.images_done + sum(self.chunks.partial.values())
        return min(found, self.plan.image_count)

    @property
    def fraction(self) -> float:
        """How much of the validation is done, 0..1; never decreases."""
        if self.phase is not Phase.CHECKING:
            return _FRACTION[self.phase]
        return min(0.05 + 0.9 * self.images_done / max(1, self.images_total), _FRACTION[Phase.WRITING])

    @property
    def is_checked(self) -> bool:
        """Whether every chunk is finished, so that the snapshot can be written."""
        return self.plan is not None and not self.chunks.missing(self.plan.chunk_count)

    def after(self, event: Event) -> State:
        """The state after the event; WrongState if it is not possible now."""
        to = TRANSITIONS[event].get(self.state)
        if to is None:
            allowed = ", ".join(TRANSITIONS[event])
            raise WrongState(name=self.name, state=self.state, verb=event, allowed=allowed)
        return to

    def with_lease(self, lease: Lease) -> "DatasetRecord":
        """Nothing else changes, not even the time of the update."""
        return replace(self, lease=lease)

    def taken(self, holder: str, now: datetime, ttl: timedelta) -> "DatasetRecord":
        """(a) A worker takes the lease; LeaseLost while another holds it, WrongState if nothing is due."""
        if self.state is State.DELETING:
            return replace(self, lease=self.lease.taken(holder, now, ttl), update_time=now)
        phase = Phase.READING if self.plan is None else Phase.WRITING if self.is_checked else self.phase
        self.after(Event.PROGRESS)
        return replace(self, lease=self.lease.taken(holder, now, ttl), phase=phase, update_time=now)

    def planned(self, plan: Plan, convention: BoxConvention, now: datetime) -> "DatasetRecord":
        """(a) The annotation files are read; the lease is released."""
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
        """(a) Records the checked images."""
        self.after(Event.PROGRESS)
        return self if chunks == self.chunks else replace(self, chunks=chunks, update_time=now)

    def accepted(
        self, stats: Stats, digest: str, manifest_key: str, findings: tuple[str, FindingCounts], now: datetime
    ) -> "DatasetRecord":
        """(b) The snapshot is complete."""
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
        """(c) There will be no snapshot, because of `error`."""
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
        """Changes caller fields."""
        self.after(Event.UPDATE)
        return replace(self, update_time=now, **values)

    def revised(self, draft: "DatasetRecord", now: datetime) -> "DatasetRecord":
        """(e) The validation of a draft's files begins, as the next version; the present one is kept if it is READY."""
        state, kept = self.after(Event.REVISE), self.versions
        if self.state is State.READY and self.stats:
            counts = self.stats.image_count, self.stats.annotation_count
            began = self.version_time or self.create_time
            snapshot = self.snapshot_digest, self.manifest_key
            kept = (*kept, Version(self.version, *snapshot, *counts, began, self.stats.stored_bytes))
        return DatasetRecord(
            name=self.name,
            uid=self.uid,
            annotation_kind=self.annotation_kind,
            annotation_file_uris=draft.annotation_file_uris,
            create_time=self.create_time,
            update_time=now,
            display_name=self.display_name,
            custom_properties=self.custom_properties,
            request_id=draft.request_id,
            state=state,
            generation=self.generation + 1,
            lease=self.lease.released(),
            version=kept[-1].number + 1 if kept else 1,
            version_time=now,
            versions=kept,
            traceparent=draft.traceparent,
            earlier_request_ids=(*self.earlier_request_ids, *filter(None, [self.request_id]))[-MAX_REQUEST_IDS:],
        )

    def repeats(self, draft: "DatasetRecord") -> bool:
        """Whether the draft's call, which its request id tells, has been carried out.

        That of the latest files also has their kind and uris; uris of earlier ones are not remembered.
        """
        if draft.request_id and draft.request_id == self.request_id:
            files = self.annotation_kind, self.annotation_file_uris
            return files == (draft.annotation_kind, draft.annotation_file_uris)
        return draft.request_id in self.earlier_request_ids

    def deleting(self, now: datetime) -> "DatasetRecord":
        """(d) Marks the dataset for removal; idempotent."""
        if self.state is State.DELETING:
            return self
        return replace(self, state=self.after(Event.DELETE), generation=self.generation + 1, update_time=now)
