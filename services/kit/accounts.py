"""Accounts: what a project has in use, one record for each project and service.

Counting what a view shows is not enough: two replicas could each create the last resource that a quota allows, because
neither sees the other's yet. So a resource is first reserved in the account, by compare-and-set, then created, then
taken off the account again. Law: what counts is every resource in the view and every reservation, once per name; and
whoever counts has first seen all resources that were taken off the account. So of any creates at the same time, no more
succeed than the quota allows, and what a quota counts never drifts from the records.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from services.kit import names
from services.kit.collection import Collection
from services.kit.errors import Conflict, RecordExists, RecordNotFound, Unavailable
from services.kit.log import Log
from services.kit.paging import Named
from services.kit.records import Records, Table, Versioned
from services.kit.views import View

COLLECTION = "accounts"
ABANDONED = timedelta(minutes=10)  # after which a reservation ends whose resource was not created
ZERO = timedelta()
R = TypeVar("R", bound=Named)

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A resource that is being created."""

    name: str
    time: datetime
    compute: timedelta = ZERO  # that it may be charged


@dataclass(frozen=True, slots=True)
class Gone:
    """Work whose record was deleted, or is about to be; what it was charged still counts."""

    name: str
    time: datetime  # of the deletion
    charged: dict[str, timedelta]  # by month


@dataclass(frozen=True, slots=True)
class Account:
    """`accounts/{service}` of a project."""

    name: str
    reservations: dict[str, Reservation] = field(default_factory=dict[str, Reservation])  # by a random id
    seen: dict[str, int] = field(default_factory=dict[str, int])  # by collection: what a view must hold to count
    # What the service last counted, for others to read: exact within seconds.
    resources: int = 0
    held_bytes: dict[str, int] = field(default_factory=dict[str, int])  # by collection
    computed: dict[str, timedelta] = field(default_factory=dict[str, timedelta])  # charged or reserved, by month
    # Compute of work that has no record any more: recently deleted, and the sums of all others by month.
    gone: dict[str, Gone] = field(default_factory=dict[str, Gone])
    charged: dict[str, timedelta] = field(default_factory=dict[str, timedelta])

    @property
    def project(self) -> str:
        """Whose it is."""
        return names.split(self.name)[0]

    @property
    def storage_bytes(self) -> int:
        """All bytes that the service last counted."""
        return sum(self.held_bytes.values())

    def reserved_names(self, collection: str) -> set[str]:
        """The resources of a collection that are being created."""
        return {found.name for found in self.reservations.values() if collection_of(found.name) == collection}


def name_of(project: str, service: str) -> str:
    """The name of a project's account with a service."""
    return names.root(project) + names.join(COLLECTION, service)


def collection_of(name: str) -> str:
    """The innermost collection: of `models/m/evaluations/e`, `evaluations`."""
    return names.split(name)[1].split("/")[-2]


class Accounts:
    """The accounts of all projects, as one service keeps its own and reads those of others."""

    def __init__(self, records: Records, service: str, counted: Mapping[str, View[Any]]) -> None:
        """`counted`: the views of the collections in which resources are reserved."""
        self.view = View(records, Account, COLLECTION)
        self._table = Table(records, Account)
        self._service = service
        self._counted = counted

    async def current(self, project: str) -> Account:
        """The account as of now, with all that it counts in the views; Unavailable."""
        return (await self._counting(project)).value

    def last(self, project: str, service: str) -> Account:
        """The account with any service, as this process last saw it."""
        found = self.view.find(name := name_of(project, service))
        return found.value if found else Account(name)

    def computed(self, project: str, month: str, *services: str) -> timedelta:
        """What the services published last that they computed for the project in a month."""
        return sum((self.last(project, service).computed.get(month, ZERO) for service in services), ZERO)

    async def published_bytes(self, project: str, *services: str) -> int:
        """What the services published last that the project holds."""
        return sum([(await self._present(name_of(project, service))).value.storage_bytes for service in services])

    async def create(
        self, collection: Collection[R], name: str, decide: Callable[[Account], tuple[R, timedelta]], now: datetime
    ) -> Versioned[R]:
        """Creates the resource that `decide` makes, unless that raises, given what the project has in use.

        With the resource, `decide` returns the compute that it may be charged. RecordExists.
        """
        id_, resource = names.new_uid(), None

        def reserved(account: Account) -> Account:
            nonlocal resource
            resource, compute = decide(account)
            return replace(account, reservations={**account.reservations, id_: Reservation(name, now, compute)})

        project = names.split(name)[0]
        await self.change(project, reserved, now, counting=True)
        assert resource is not None, "a change is decided at least once"
        try:
            created = await collection.create(resource)
        except RecordExists:
            await self._take_off(project, id_, 0, now)
            raise
        # After Unavailable it may have been created: the reservation then ends by itself.
        if await self._take_off(project, id_, created.revision, now):
            return created
        await collection.delete(
            name, created.etag
        )  # this process stood still for so long that others stopped counting it
        raise Unavailable(what="The quota", problem=f"reserving {name} took too long, and it was not created")

    async def _take_off(self, project: str, id_: str, revision: int, now: datetime) -> bool:
        """Ends a reservation, whose resource is in the view from this revision on; whether it was still there."""
        was_there = True

        def decide(account: Account) -> Account:
            nonlocal was_there
            was_there = id_ in account.reservations
            if not was_there:
                return account
            seen = _later(account.seen, collection_of(account.reservations[id_].name), revision)
            return replace(account, seen=seen, reservations=_without(account.reservations, id_))

        try:
            await self.change(project, decide, now)
        except Unavailable as error:
            _log.info("reservation_kept", problem=error.message)  # it counts until it has expired
        return was_there

    async def change(
        self, project: str, decide: Callable[[Account], Account], now: datetime, *, counting: bool = False
    ) -> None:
        """Applies a pure decision to the account, which begins empty; repeats it after every lost race.

        With `counting`, the views hold all that the account counts when it is decided.
        """
        while True:
            found = await (self._counting(project) if counting else self._present(name_of(project, self._service)))
            kept = self._without_abandoned(found.value, now) if counting else found.value
            if (decided := decide(kept)) is found.value:
                return
            try:
                if found.revision:
                    await self._table.update(decided.name, decided, found.revision)
                else:
                    await self._table.create(decided.name, decided)
            except (Conflict, RecordExists):
                continue
            return

    async def publish(
        self,
        project: str,
        resources: int,
        held_bytes: dict[str, int],
        now: datetime,
        computed: dict[str, timedelta] | None = None,
    ) -> None:
        """Says what the project holds of this service, and what it computed, for others to read."""

        def decide(account: Account) -> Account:
            wanted = resources, held_bytes, computed or {}
            if (account.resources, account.held_bytes, account.computed) == wanted:
                return account
            return replace(account, resources=resources, held_bytes=held_bytes, computed=computed or {})

        last = self.last(project, self._service)
        if decide(last) is not last:
            await self.change(project, decide, now)

    async def _present(self, name: str) -> Versioned[Account]:
        try:
            return await self._table.get(name)
        except RecordNotFound:
            return Versioned(Account(name), 0)

    async def _counting(self, project: str) -> Versioned[Account]:
        found = await self._present(name_of(project, self._service))
        for collection, revision in found.value.seen.items():
            if revision < found.revision:  # otherwise it is of another stream, from which the records were copied
                await self._counted[collection].caught_up(revision)
        return found

    def _without_abandoned(self, account: Account, now: datetime) -> Account:
        """Without the reservations of processes that died before they created the resource, or just after it."""
        kept, seen = account.reservations, account.seen
        for id_, reservation in account.reservations.items():
            if now - reservation.time < ABANDONED:
                continue
            collection = collection_of(reservation.name)
            if found := self._counted[collection].find(reservation.name):
                seen = _later(seen, collection, found.revision)
            kept = _without(kept, id_)
        return account if kept is account.reservations else replace(account, reservations=kept, seen=seen)


def _later(seen: dict[str, int], collection: str, revision: int) -> dict[str, int]:
    return {**seen, collection: max(revision, seen.get(collection, 0))}


def _without(reservations: dict[str, Reservation], id_: str) -> dict[str, Reservation]:
    return {key: value for key, value in reservations.items() if key != id_}
