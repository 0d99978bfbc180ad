"""What callers do with aliases of models. Depends on ports only."""

from collections.abc import Awaitable, Callable

from services.kit.callers import current
from services.kit.clock import Clock
from services.kit.errors import (
    EtagMismatch,
    ModelAliasNotFound,
    ModelNotFound,
    NothingToRollBack,
    RecordExists,
)
from services.kit.names import own, split
from services.kit.paging import page_of
from services.kit.quotas import require_one_more
from services.kit.records import Versioned
from services.trainer.alias import MOST_ALIASES, Alias, drafted, key_of
from services.trainer.bundles import require_served
from services.trainer.domain import Model
from services.trainer.store import Store


class Aliases:
    """Everything that callers do with aliases."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def get(self, name: str) -> Versioned[Alias]:
        """The alias now; ModelAliasNotFound."""
        return await self._store.alias(name)

    def page(self, page_size: int, page_token: str) -> tuple[list[Versioned[Alias]], str]:
        """One page of the project's aliases, by name."""
        return page_of(self._own(), own("aliases"), page_size, page_token)

    async def set(self, name: str, model: str, etag: str) -> Versioned[Alias]:
        """Makes the alias stand for the model.

        ModelNotFound, ModelNotReady, ModelAliasNotFound, EtagMismatch, ProjectQuotaExceeded for one alias too many.
        """
        target = (await self._store.model(model)).value
        require_served(target)

        async def chosen(_: Alias) -> Model:
            return target

        while True:
            try:
                return await self._switch(name, etag, chosen)
            except ModelAliasNotFound:
                if etag:
                    raise
            self._check_number(split(name)[0])
            try:
                return await self._store.aliases.create(drafted(key_of(name), target, self._clock.now(), _subject()))
            except RecordExists:
                continue  # another call has just created it

    async def roll_back(self, name: str, etag: str, request_id: str) -> Versioned[Alias]:
        """Back to the latest other model that still exists, unless the latest switch was this very call's.

        NothingToRollBack, ModelAliasNotFound, EtagMismatch.
        """
        return await self._switch(name, etag, self._earlier, request_id)

    async def delete(self, name: str, etag: str) -> None:
        """Removes the alias. ModelAliasNotFound, EtagMismatch."""
        while True:
            found = await self.get(name)
            _check(found, etag)
            try:
                return await self._store.aliases.delete(found.value.name, found.etag)
            except EtagMismatch:
                continue

    def _own(self) -> list[Versioned[Alias]]:
        return self._store.aliases.view.all(own("models", ""))

    def _check_number(self, project: str) -> None:
        """ProjectQuotaExceeded if the project has as many as it may, which simultaneous calls may pass."""
        remedy = "Delete aliases that nobody needs."
        require_one_more("aliases", project, len(self._own()), MOST_ALIASES, "fixed", remedy)

    async def _switch(
        self, name: str, etag: str, choose: Callable[[Alias], Awaitable[Model]], request_id: str = ""
    ) -> Versioned[Alias]:
        while True:
            found = await self.get(name)
            if request_id and request_id == found.value.switches[0].request_id:
                return found
            _check(found, etag)
            switched = found.value.switched(await choose(found.value), self._clock.now(), _subject(), request_id)
            if switched is found.value:
                return found
            try:
                return await self._store.aliases.change(switched.name, lambda _, new=switched: new, found.etag)
            except EtagMismatch:
                continue

    async def _earlier(self, alias: Alias) -> Model:
        for switch in alias.switches:
            try:
                model = (await self._store.models.get(switch.model)).value
            except ModelNotFound:
                continue
            if model.uid == switch.model_uid and not alias.stands_for(model):
                return model
        raise NothingToRollBack(name=alias.public_name)


def _check(found: Versioned[Alias], etag: str) -> None:
    if etag not in ("", found.etag):
        raise EtagMismatch(name=found.value.public_name, etag=etag, current=found.etag)


def _subject() -> str:
    caller = current.get()
    return caller.subject if caller else ""
