"""One project's account with one service: what it holds, and how it changes. `accounts` says what it is for."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.kit import names
from services.kit.quotas import ComputeUse, month_around, month_of

COLLECTION = "accounts"
SETTLED = timedelta(hours=1)  # after which no view lags behind, and nobody is still deleting a record
MAX_GONE = 500  # on an account: beyond this, the oldest are added up before that
ZERO = timedelta()


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
class Use:
    """What a project has in use of a service, for others to read."""

    resources: int
    held_bytes: dict[str, int]  # by collection
    computed: dict[str, timedelta] = field(default_factory=dict[str, timedelta])  # charged or reserved, by month
    reserved: timedelta = ZERO  # of this month's


@dataclass(frozen=True, slots=True)
class Account:
    """`accounts/{service}` of a project."""

    name: str
    reservations: dict[str, Reservation] = field(default_factory=dict[str, Reservation])  # by a random id
    seen: dict[str, int] = field(default_factory=dict[str, int])  # by collection: what a view must hold to count
    # What the service last counted, for others to read. Compute is exact, all else within seconds.
    resources: int = 0
    held_bytes: dict[str, int] = field(default_factory=dict[str, int])  # by collection
    computed: dict[str, timedelta] = field(default_factory=dict[str, timedelta])  # charged or reserved, by month
    reserved: timedelta = ZERO  # of this month's
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

    def compute(self, now: datetime) -> ComputeUse:
        """This month's compute, as the service last counted it."""
        used = self.computed.get(month_of(now), ZERO)
        reserved = min(self.reserved, used)
        return ComputeUse(used - reserved, reserved)

    @property
    def use(self) -> Use:
        """What was last published."""
        return Use(self.resources, self.held_bytes, self.computed, self.reserved)

    def with_use(self, use: Use) -> "Account":
        """Published; itself if nothing has changed."""
        if use == self.use:
            return self
        now = {"resources": use.resources, "held_bytes": use.held_bytes, "computed": use.computed}
        return replace(self, **now, reserved=use.reserved)

    def with_reservation(self, id_: str, name: str, compute: timedelta, now: datetime) -> "Account":
        """A resource is about to be created. Others count its compute at once."""
        reservations = {**self.reservations, id_: Reservation(name, now, compute)}
        return replace(self, reservations=reservations, computed=_plus(self.computed, compute, now))

    def without_reservation(self, id_: str, revision: int) -> "Account":
        """The resource is in its view from the revision on, or it will never be: 0."""
        reservation = self.reservations[id_]
        collection, computed = collection_of(reservation.name), self.computed
        kept = {key: value for key, value in self.reservations.items() if key != id_}
        seen = {**self.seen, collection: max(revision, self.seen.get(collection, 0))}
        if not revision:
            computed = _plus(computed, -reservation.compute, reservation.time)
        return replace(self, reservations=kept, seen=seen, computed=computed)

    def with_gone(self, key: str, gone: Gone, present: Collection[str]) -> "Account":
        """A record with these charges is about to be deleted; older deletions are added to the sums.

        `present`: the keys of records that are there. One that was not deleted after all keeps its own charges.
        """
        all_gone = {**self.gone, key: gone}
        newest = sorted(all_gone, key=lambda one: all_gone[one].time, reverse=True)
        sums, kept = defaultdict[str, timedelta](timedelta, self.charged), dict[str, Gone]()
        for number, one in enumerate(newest):
            if number < MAX_GONE and gone.time - all_gone[one].time < SETTLED:
                kept[one] = all_gone[one]
            elif one not in present:
                for month, span in all_gone[one].charged.items():
                    sums[month] += span
        return replace(self, gone=kept, charged=dict(sums))

    def reserved_names(self, collection: str) -> set[str]:
        """The resources of a collection that are being created."""
        return {found.name for found in self.reservations.values() if collection_of(found.name) == collection}


def name_of(project: str, service: str) -> str:
    """The name of a project's account with a service."""
    return names.root(project) + names.join(COLLECTION, service)


def collection_of(name: str) -> str:
    """The innermost collection: of `models/m/evaluations/e`, `evaluations`."""
    return names.split(name)[1].split("/")[-2]


def computed_by_month(charged: timedelta, reserved: timedelta, now: datetime) -> dict[str, timedelta]:
    """What counts this month and, as far as can be told, in the next one, when others may already be."""
    months = {month_of(now): charged + reserved, month_of(month_around(now)[1]): reserved}
    return {month: span for month, span in months.items() if span}


def _plus(computed: dict[str, timedelta], span: timedelta, now: datetime) -> dict[str, timedelta]:
    more = computed_by_month(ZERO, span, now)
    return {**computed, **{month: computed.get(month, ZERO) + one for month, one in more.items()}}
