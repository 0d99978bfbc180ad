"""The port to the records, the source of truth about every resource, and the typed table on top of it."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from services.kit import codec, unknown_fields
from services.kit.errors import (
    Conflict,
    EtagMismatch,
    RecordTooLarge,
    RecordUnusable,
)

T = TypeVar("T")
MAX_RECORD_BYTES = 256 * 1024
RECORD_FORMAT = 1  # of a record without `record_format`; higher once an older release must not touch what is written
_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True, slots=True)
class Record:
    """A value and the revision at which it was written."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """Yielded by a watch: the record was deleted, at this revision."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Synced:
    """Yielded by a watch once, when everything that existed when it started, at this revision, has been yielded."""

    revision: int = 0


Change = Record | Deleted | Synced


class Records(Protocol):
    """Small values under resource names (`datasets/a`, `models/m/trials/t0`), changed by compare-and-set only.

    Law: revisions increase with every write of any key and are never reused, not even after a deletion. Of several
    writers with the same expected revision one wins and the others get Conflict. A write that failed with Unavailable
    may have happened: read before deciding. A create after a deletion succeeds. Keys are resource names: parts of
    letters, digits, `.`, `_` and `-`, joined by `/` (ValueError).
    """

    async def get(self, key: str) -> Record:
        """The current record, at least as new as any write that has returned; RecordNotFound."""
        ...

    async def create(self, key: str, value: bytes) -> int:
        """The new revision; RecordExists if there is a record."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """The new revision; Conflict unless the record is at the given one."""
        ...

    async def delete(self, key: str, revision: int) -> int:
        """The revision of the deletion, to wait for only; Conflict unless the record is at the given one."""
        ...

    def watch(self, *collections: str) -> AsyncIterator[Change]:
        """Every record of the collections (`"models", "trials"`: all models' trials) in all projects, Synced, then
        every change.

        Of several quick changes to one key only the last may be yielded. Unavailable when the store is lost or the
        watch may have missed a change; the caller starts again. Closing the iterator ends the watch.
        """
        ...


def check_record_key(key: str) -> str:
    """The key itself; ValueError unless it has the form of a resource name."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a record's key")
    return key


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A resource and the revision it was read at."""

    value: T
    revision: int
    stored: bytes = field(default=b"", compare=False, repr=False)  # the record, as a table read or wrote it

    @property
    def etag(self) -> str:
        """The revision as callers see it."""
        return str(self.revision)


def decoded(record: Record, type_: type[T]) -> Versioned[T]:
    """The resource in a record; RecordUnusable if it cannot be read, or if a newer release forbids it."""
    try:
        if (format_ := codec.record_format(record.value) or RECORD_FORMAT) > RECORD_FORMAT:
            raise ValueError(f"its record format is {format_}, and this release knows those up to {RECORD_FORMAT}")
        return Versioned(codec.decode(record.value, type_), record.revision)
    except ValueError as error:
        raise RecordUnusable(name=record.key, problem=error) from error


class Table(Generic[T]):
    """Resources of one type: typed reads, and compare-and-set writes.

    RecordUnusable if one cannot be read, RecordTooLarge if one that is to be written has more than MAX_RECORD_BYTES.

    What a newer release has added to a record stays in it; see `unknown_fields`.
    """

    def __init__(self, records: Records, type_: type[T]) -> None:
        self._records = records
        self._type = type_

    @staticmethod
    def _encode(name: str, value: object, replaced: Versioned[T] | None = None) -> bytes:
        data = codec.encode(value)
        if replaced:
            data = unknown_fields.kept(data, codec.encode(replaced.value), replaced.stored)
        if len(data) > MAX_RECORD_BYTES:
            raise RecordTooLarge(field=name, size=len(data), limit=MAX_RECORD_BYTES)
        return data

    async def get(self, name: str) -> Versioned[T]:
        """The resource as of now; RecordNotFound."""
        record = await self._records.get(name)
        return replace(decoded(record, self._type), stored=record.value)

    async def create(self, name: str, value: T) -> Versioned[T]:
        """Adds the resource; RecordExists."""
        data = self._encode(name, value)
        return Versioned(value, await self._records.create(name, data), data)

    async def update(self, name: str, value: T, found: Versioned[T]) -> Versioned[T]:
        """Replaces the resource as `get` or `create` returned it; Conflict if it has changed since."""
        data = self._encode(name, value, found)
        return Versioned(value, await self._records.update(name, data, found.revision), data)

    async def change(self, name: str, decide: Callable[[T], T], etag: str = "") -> Versioned[T]:
        """Applies a pure decision to the current value and writes the result; repeats it after every lost race.

        `decide` raises to refuse, or returns its argument itself to change nothing. With an etag, only that revision
        is changed: EtagMismatch otherwise. A crash between write and response may apply the decision twice, so it must
        be idempotent.
        """
        while True:
            present = await self.get(name)
            if etag and etag != present.etag:
                raise EtagMismatch(name=name, etag=etag, current=present.etag)
            decided = decide(present.value)
            if decided is present.value:
                return present
            try:
                return await self.update(name, decided, present)
            except Conflict:
                continue

    async def delete(self, name: str, etag: str = "") -> int:
        """Removes the resource; RecordNotFound, or EtagMismatch if an etag is given that is not current."""
        while True:
            present = await self._records.get(name)
            if etag and etag != str(present.revision):
                raise EtagMismatch(name=name, etag=etag, current=present.revision)
            try:
                return await self._records.delete(name, present.revision)
            except Conflict:
                continue
