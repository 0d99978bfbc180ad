"""Holds: who needs a dataset, which is therefore not deleted; and how a deletion shuts out new ones.

Each dataset has a record `holds/{dataset}`, apart from its own, whose etag belongs to callers. Law: of a deletion and a
hold at the same time, either the deletion finds the hold and is refused, or the hold finds the deletion and is refused.

    deletion                                          hold
    d1  read the dataset, at revision r               h1  add the holder; see at which revision the holds are closed
    d2  close the holds at r, if nobody holds;        h2  read the dataset: it is neither DELETING nor gone, and its
        a closing never goes back                         revision is later than that
    d3  mark the dataset DELETING, if it is still
        at r

Suppose that d3 and h2 both succeed. d2 and h1 write the same record, so one was first. Had h1 been, d2 would have found
the holder. So d2 was, and h1 saw the holds closed at r or later. h2 found a later revision, so the dataset had left r
by then; d3 took it from r, so h2 found it DELETING or gone, and failed. The record goes before the dataset does, while
that is DELETING: an h1 after that sees no closing, but its h2 fails.

If d3 finds another revision, the deletion starts over. If it dies before d3, `interrupted` tells, and a new revision of
the dataset, with the same content, ends the closing.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.kit import names
from services.kit.clock import Clock
from services.kit.errors import (
    Conflict,
    DatasetInUse,
    DatasetNotFound,
    DatasetNotReady,
    EtagMismatch,
    RecordExists,
    RecordNotFound,
    Unavailable,
)
from services.kit.records import Records, Table, Versioned
from services.kit.views import View
from sightline.plurals import counted

COLLECTION = "holds"
NAMED = 5  # holders in an error
PATIENCE_SECONDS, LOOK_SECONDS = 1.0, 0.1  # for a deletion that may be between two of its steps


@dataclass(frozen=True, slots=True)
class Holder:
    """A resource that needs a dataset. The id is its own, of all resources that had or will have the name."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class Hold:
    """`holds/{dataset}`."""

    name: str
    holders: dict[str, str] = field(default_factory=dict[str, str])  # ids by name
    closed: int = 0  # the revision of the dataset as of which it may be deleted
    close_time: datetime | None = None

    @property
    def dataset(self) -> str:
        """The name of the dataset."""
        project, local = names.split(self.name)
        return names.root(project) + names.join("datasets", *local.split("/")[1:])


class Holds:
    """The holds on all datasets, as the service of the datasets and those of their holders change them."""

    def __init__(self, records: Records) -> None:
        self.view = View(records, Hold, COLLECTION)
        self._table = Table(records, Hold)

    def of(self, dataset: str) -> dict[str, str]:
        """The ids of the dataset's holders by name, as this process last saw them."""
        found = self.view.find(_name(dataset))
        return found.value.holders if found else {}

    async def add(self, dataset: str, holder: Holder) -> int:
        """h1: returns the revision at which the holds are closed, 0 if they are not. Safe to repeat."""
        held = await self._change(
            dataset,
            lambda hold: (
                hold
                if hold.holders.get(holder.name) == holder.id
                else replace(hold, holders={**hold.holders, holder.name: holder.id})
            ),
        )
        return _closed(held)

    async def take(self, dataset: str, holder: Holder, revision: Callable[[], Awaitable[int]], clock: Clock) -> None:
        """h1 and h2: the dataset is not deleted until the hold ends. Safe to repeat.

        `revision` asks for the dataset's; it raises DatasetNotFound, or DatasetNotReady if the dataset is DELETING, and
        so does this, without a hold then. Unavailable if a deletion is not decided yet.
        """
        closed, until = await self.add(dataset, holder), clock.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                found = await revision()
            except (DatasetNotFound, DatasetNotReady):
                await self.remove(dataset, holder)
                raise
            if found > closed or not closed:
                return
            if clock.monotonic() >= until:
                problem = "its deletion was interrupted; it can be used again in a moment"
                raise Unavailable(what=dataset, problem=problem)
            await clock.sleep(LOOK_SECONDS)

    async def remove(self, dataset: str, holder: Holder) -> None:
        """Ends the hold; does nothing if there is none, or if it is another resource's of the same name."""

        def decide(hold: Hold) -> Hold:
            if hold.holders.get(holder.name) != holder.id:
                return hold
            return replace(hold, holders={name: id_ for name, id_ in hold.holders.items() if name != holder.name})

        await self._change(dataset, decide)

    async def close(self, dataset: str, revision: int, now: datetime, *, force: bool = False) -> None:
        """d2: DatasetInUse if there is a holder, unless `force`."""

        def decide(hold: Hold) -> Hold:
            if hold.holders and not force:
                raise DatasetInUse(name=dataset, users=_listed(hold.holders), count=len(hold.holders))
            return replace(hold, closed=max(revision, hold.closed), close_time=now)

        await self._change(dataset, decide)

    async def forget(self, dataset: str, revision: int) -> None:
        """Removes the record of a dataset that was DELETING at this revision, but not of a later one of the name."""
        with suppress(RecordNotFound):
            while True:
                found = await self._table.get(_name(dataset))
                if not 0 < found.value.closed <= revision:
                    return
                with suppress(EtagMismatch):
                    await self._table.delete(found.value.name, found.etag)
                    return

    async def _change(self, dataset: str, decide: Callable[[Hold], Hold]) -> Versioned[Hold]:
        name = _name(dataset)
        while True:
            try:
                return await self._table.change(name, decide)
            except RecordNotFound:
                empty = Hold(name)
            if (first := decide(empty)) is empty:
                return Versioned(empty, 0)
            try:
                return await self._table.create(name, first)
            except (RecordExists, Conflict):
                continue


def interrupted(found: Versioned[Hold], revision: int) -> bool:
    """Whether the dataset, at this revision, cannot be held because of a deletion that has not marked it."""
    return revision <= _closed(found)


def _closed(found: Versioned[Hold]) -> int:
    """A revision beyond the record's own is of another stream, from which the records were copied."""
    return found.value.closed if found.value.closed < found.revision else 0


def _name(dataset: str) -> str:
    project, local = names.split(dataset)
    return names.root(project) + names.join(COLLECTION, *local.split("/")[1:])


def _listed(holders: dict[str, str]) -> str:
    named, rest = sorted(holders)[:NAMED], len(holders) - NAMED
    return ", ".join(named) + (f" and {counted(rest, 'other')}" if rest > 0 else "")
