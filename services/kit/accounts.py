"""Accounts: what a project has in use, one record for each project and service.

Counting what a view shows is not enough: two replicas could each create the last resource that a quota allows, because
neither sees the other's yet. So a resource is first reserved in the account, by compare-and-set, then created, then
taken off the account again. Law: what counts is every resource in the view and every reservation, once per name; and
whoever counts has first seen all resources that were taken off the account. So of any creates at the same time, no more
succeed than the quota allows, and what a quota counts never drifts from the records.

The compute of a project is that of two services. Each publishes in its account what it counts, and adds what the other
published. A reservation is published in the write that makes it. After that write the other's account is read again; if
it has changed, the decision is made again. Of two creates at the same time, at least one sees the other's.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Names
from datetime import datetime, timedelta
from typing import Any, TypeVar

from services.kit import names
from services.kit.account import COLLECTION, Account, Gone, Use, collection_of, name_of
from services.kit.collection import Collection
from services.kit.errors import Conflict, RecordExists, RecordNotFound, SightlineError, Unavailable
from services.kit.log import Log
from services.kit.paging import Named
from services.kit.records import Records, Table, Versioned
from services.kit.views import View

ABANDONED = timedelta(minutes=10)  # after which a reservation ends whose resource was not created
R = TypeVar("R", bound=Named)

_log = Log(__name__)


class Accounts:
    """The accounts of all projects, as one service keeps its own and reads those of others."""

    def __init__(
        self, records: Records, service: str, counted: Mapping[str, View[Any]], heeded: Sequence[str] = ()
    ) -> None:
        """`counted`: the views of the collections in which resources are reserved; `heeded`: the services whose
        compute counts too.
        """
        self.view = View(records, Account, COLLECTION)
        self._table = Table(records, Account)
        self._service = service
        self._counted = counted
        self._heeded = heeded

    async def current(self, project: str) -> Account:
        """The account as of now, with all that it counts in the views; Unavailable."""
        return (await self._counting(project)).value

    def last(self, project: str, service: str) -> Account:
        """The account with any service, as this process last saw it."""
        found = self.view.find(name := name_of(project, service))
        return found.value if found else Account(name)

    def stored(self, project: str, *services: str) -> int:
        """What the project holds of the services, as this process last saw it."""
        return sum(self.last(project, service).storage_bytes for service in services)

    async def published_bytes(self, project: str, *services: str) -> int:
        """What the services published last that the project holds."""
        return sum([(await self._present(name_of(project, service))).value.storage_bytes for service in services])

    async def create(
        self, collection: Collection[R], name: str, decide: Callable[[Account], tuple[R, timedelta]], now: datetime
    ) -> Versioned[R]:
        """Creates the resource that `decide` makes, unless that raises, given what the project has in use.

        With the resource, `decide` returns the compute that it may be charged. RecordExists.
        """
        id_, resource, before = names.new_uid(), None, Account("")
        project = names.split(name)[0]

        def reserved(account: Account) -> Account:
            nonlocal resource, before
            before = account
            resource, compute = decide(account)
            return account.with_reservation(id_, name, compute, now)

        seen = self._revisions(project)
        await self.change(project, reserved, now, counting=True)
        assert resource is not None, "a change is decided at least once"
        try:
            if await self._heeded_revisions(project) != seen:
                decide(before)
        except SightlineError:
            await self._take_off(project, id_, 0, now)
            raise
        try:
            created = await collection.create(resource)
        except RecordExists:
            await self._take_off(project, id_, 0, now)
            raise
        # After Unavailable it may have been created: the reservation then ends by itself.
        if await self._take_off(project, id_, created.revision, now):
            return created
        # This process stood still for so long that others stopped counting the resource.
        await collection.delete(name, created.etag)
        raise Unavailable(what="The quota", problem=f"reserving {name} took too long, and it was not created")

    async def _take_off(self, project: str, id_: str, revision: int, now: datetime) -> bool:
        """Ends a reservation, whose resource is in the view from this revision on; whether it was still there."""
        was_there = True

        def decide(account: Account) -> Account:
            nonlocal was_there
            was_there = id_ in account.reservations
            return account.without_reservation(id_, revision) if was_there else account

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
                    await self._table.update(decided.name, decided, found)
                else:
                    await self._table.create(decided.name, decided)
            except (Conflict, RecordExists):
                continue
            return

    async def publish(self, project: str, count: Callable[[Account], Use], now: datetime) -> None:
        """Says what the project has in use of this service, for others to read.

        `count` is called with the account as last seen and, if there is anything to write, as it is now.
        """

        def decide(account: Account) -> Account:
            return account.with_use(count(account))

        last = self.last(project, self._service)
        if decide(last) is not last:
            await self.change(project, decide, now, counting=True)

    async def keep_charges(self, key: str, gone: Gone, present: Callable[[], Names[str]]) -> None:
        """Writes onto the account what a record was charged that is about to be deleted. Safe to repeat.

        `key` is its own, of all that had or will have its name; `present` gives the keys of all records in the view.
        An hour later it is added to the sums.
        """
        await self.change(names.split(gone.name)[0], lambda account: account.with_gone(key, gone, present()), gone.time)

    def _revisions(self, project: str) -> list[int]:
        """At which the accounts of the heeded services were last seen."""
        found = [self.view.find(name_of(project, service)) for service in self._heeded]
        return [one.revision if one else 0 for one in found]

    async def _heeded_revisions(self, project: str) -> list[int]:
        """The same as of now; the view has them then."""
        found = [await self._present(name_of(project, service)) for service in self._heeded]
        for one in found:
            await self.view.caught_up(one.revision)
        return [one.revision for one in found]

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
        for id_, reservation in account.reservations.items():
            if now - reservation.time >= ABANDONED:
                found = self._counted[collection_of(reservation.name)].find(reservation.name)
                account = account.without_reservation(id_, found.revision if found else 0)
        return account
