"""A collection: all resources of one kind, as a table to write and a view to list and follow."""

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from services.kit.errors import AlreadyExists, NotFound, RecordExists, RecordNotFound
from services.kit.paging import Named
from services.kit.records import Records, Table, Versioned
from services.kit.views import View


class Requested(Named, Protocol):
    """A resource that remembers the request id of the call that created it."""

    @property
    def request_id(self) -> str:
        """Empty if the caller gave none."""
        ...


T = TypeVar("T", bound=Named)
R = TypeVar("R", bound=Requested)


class Collection(Generic[T]):
    """One kind of resource.

    Every write returns once the view has it, so that a list shows what this process has written. Unavailable if the
    view does not catch up; the write has then happened.
    """

    def __init__(self, records: Records, type_: type[T], missing: type[NotFound], *collections: str) -> None:
        self.table = Table(records, type_)
        self.view = View(records, type_, *collections)
        self._missing = missing

    async def get(self, name: str) -> Versioned[T]:
        """The resource as of now; its own kind of NotFound."""
        try:
            return await self.table.get(name)
        except RecordNotFound:
            raise self._missing(name=name) from None

    async def create(self, resource: T) -> Versioned[T]:
        """Adds the resource; RecordExists."""
        created = await self.table.create(resource.name, resource)
        await self.view.caught_up(created.revision)
        return created

    async def change(self, name: str, decide: Callable[[T], T], etag: str = "") -> Versioned[T]:
        """Applies a decision, as `Table.change` does; its own kind of NotFound."""
        try:
            changed = await self.table.change(name, decide, etag)
        except RecordNotFound:
            raise self._missing(name=name) from None
        await self.view.caught_up(changed.revision)
        return changed

    async def delete(self, name: str, etag: str = "") -> None:
        """Removes the resource; its own kind of NotFound."""
        try:
            revision = await self.table.delete(name, etag)
        except RecordNotFound:
            raise self._missing(name=name) from None
        await self.view.caught_up(revision)


async def create_once(
    collection: Collection[R],
    name: str,
    request_id: str,
    taken: AlreadyExists,
    make: Callable[[], Awaitable[R]],
    *,
    is_same: Callable[[R], bool] = lambda _: True,
    create: Callable[[R], Awaitable[Versioned[R]]] | None = None,
    validate_only: bool,
) -> Versioned[R]:
    """Adds the resource that `make` checks and returns; with `validate_only`, only makes it, at revision 0.

    If the name is in use: the present resource if it has this request id and `is_same`, otherwise raises `taken`.
    `create`, by default the collection's own, adds it; RecordExists.
    """

    async def repeated() -> Versioned[R]:
        present = await collection.get(name)
        if request_id and request_id == present.value.request_id and is_same(present.value):
            return present
        raise taken

    try:
        return await repeated()
    except NotFound:
        pass
    resource = await make()
    if validate_only:
        return Versioned(resource, 0)
    try:
        return await (create or collection.create)(resource)
    except RecordExists:
        return await repeated()
