"""The port to the records, the truth about every resource, and the typed table built on it."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from services.kit import codec
from services.kit.errors import (
    Conflict,
    EtagMismatch,
    InvalidRequest,
    RecordUnusable,
)

T = TypeVar("T")
MAX_RECORD_BYTES = 256 * 1024
_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True, slots=True)
class Record:
    """A value and the revision that wrote it."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """Seen by a watch: the record is gone, at this revision."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Synced:
    """Seen by a watch once: everything that existed when it began, at this revision, has been yielded."""

    revision: int = 0


Change = Record | Deleted | Synced


class Records(Protocol):
    """Small values under resource names (`datasets/a`, `models/m/trials/t0`), changed by compare-and-set only.

    Law: revisions rise with every write of any key and are never reused, also over a deletion. Of several writers
    with the same expected revision one wins, the others get Conflict. A write that failed with Unavailable may
    have happened: read before deciding. A create after a deletion succeeds. Keys are resource names: parts of
    letters, digits, `.`, `_` and `-`, joined by `/` (ValueError).
    """

    async def get(self, key: str) -> Record:
        """The present record, never an older one than any write that returned before; RecordNotFound."""
        ...

    async def create(self, key: str, value: bytes) -> int:
        """The new revision; RecordExists if the key has a record."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """The new revision; Conflict unless the record's revision is the given one."""
        ...

    async def delete(self, key: str, revision: int) -> int:
        """The deletion's revision, to wait for and never to write at; Conflict unless the record's is the given one."""
        ...

    def watch(self, *collections: str) -> AsyncIterator[Change]:
        """Every record of the collections (`"models", "trials"`: all models' trials), Synced, then every change.

        Of several quick changes to one key only the last may be seen. Unavailable when the store is lost or the
        watch may have missed a change; the caller begins again. Closing the iterator ends the watch.
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

    @property
    def etag(self) -> str:
        """The revision as callers see it."""
        return str(self.revision)


def decoded(record: Record, type_: type[T]) -> Versioned[T]:
    """The resource in a record; RecordUnusable."""
    try:
        return Versioned(codec.decode(record.value, type_), record.revision)
    except ValueError as error:
        raise RecordUnusable(name=record.key, problem=error) from error


class Table(Generic[T]):
    """Resources of one type: typed reads and compare-and-set writes. RecordUnusable for one that cannot be read."""

    def __init__(self, records: Records, type_: type[T]) -> None:
        self._records = records
        self._type = type_

    @staticmethod
    def _encode(name: str, value: object) -> bytes:
        data = codec.encode(value)
        if len(data) > MAX_RECORD_BYTES:
            raise InvalidRequest(field=name, problem=f"{len(data)} bytes are more than a record's {MAX_RECORD_BYTES}")
        return data

    async def get(self, name: str) -> Versioned[T]:
        """The resource as of now; RecordNotFound."""
        return decoded(await self._records.get(name), self._type)

    async def create(self, name: str, value: T) -> Versioned[T]:
        """Adds the resource; RecordExists."""
        return Versioned(value, await self._records.create(name, self._encode(name, value)))

    async def update(self, name: str, value: T, revision: int) -> Versioned[T]:
        """Replaces the resource as it was at the revision; Conflict."""
        return Versioned(value, await self._records.update(name, self._encode(name, value), revision))

    async def change(self, name: str, decide: Callable[[T], T], etag: str = "") -> Versioned[T]:
        """Applies a pure decision to the present value, again after every lost race, until it is written.

        `decide` raises to refuse, or returns its very argument to leave all as it is. With an etag the change is
        made to that revision only: EtagMismatch otherwise. A crash between write and answer may apply it twice,
        so a decision must be idempotent.
        """
        while True:
            present = await self.get(name)
            if etag and etag != present.etag:
                raise EtagMismatch(name=name, etag=etag, current=present.etag)
            decided = decide(present.value)
            if decided is present.value:
                return present
            try:
                return await self.update(name, decided, present.revision)
            except Conflict:
                continue

    async def delete(self, name: str, etag: str = "") -> int:
        """Removes the resource; RecordNotFound, or EtagMismatch if an etag is given and is not the present one."""
        while True:
            present = await self._records.get(name)
            if etag and etag != str(present.revision):
                raise EtagMismatch(name=name, etag=etag, current=present.revision)
            try:
                return await self._records.delete(name, present.revision)
            except Conflict:
                continue
