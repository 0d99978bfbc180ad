"""Collections: a process reads what it wrote, and a repeated request creates nothing."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from services.kit.collection import Collection, create_once
from services.kit.errors import ModelAlreadyExists, ModelNotFound
from services.kit.memory import MemoryRecords
from services.kit.records import Change, Versioned
from services.kit.tasks import alongside

NAME = "models/m"


@dataclass(frozen=True)
class Thing:
    name: str = NAME
    request_id: str = ""
    text: str = ""


class SlowRecords(MemoryRecords):
    """Records whose watch lags behind their writes."""

    async def watch(self, *collections: str) -> AsyncIterator[Change]:
        async for change in super().watch(*collections):
            await asyncio.sleep(0.001)
            yield change


@asynccontextmanager
async def running() -> AsyncGenerator[Collection[Thing]]:
    collection = Collection(SlowRecords(), Thing, ModelNotFound, "models")
    async with alongside(view=collection.view.run()), asyncio.timeout(10):
        await collection.view.synced()
        yield collection


async def create(
    collection: Collection[Thing], thing: Thing, *, validate_only: bool = False, rival: Thing | None = None
) -> Versioned[Thing]:
    """Creates it; meanwhile another process may create the rival."""

    async def make() -> Thing:
        if rival:
            await collection.create(rival)
        return thing

    return await create_once(
        collection,
        thing.name,
        thing.request_id,
        ModelAlreadyExists(name=thing.name),
        make,
        is_same=lambda present: present.text == thing.text,
        validate_only=validate_only,
    )


async def test_the_view_has_every_write_when_it_returns() -> None:
    async with running() as collection:
        created = await collection.create(Thing())
        assert collection.view.find(NAME) == created
        changed = await collection.change(NAME, lambda thing: replace(thing, text="new"))
        assert collection.view.all() == [changed]
        await collection.delete(NAME)
        assert collection.view.all() == []


async def test_what_is_missing_is_named_by_its_kind() -> None:
    async with running() as collection:
        for call in (collection.get(NAME), collection.change(NAME, lambda thing: thing), collection.delete(NAME)):
            with pytest.raises(ModelNotFound, match=NAME):
                await call


@pytest.mark.parametrize("concurrently", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "is_repeat"),
    [
        (Thing(request_id="r"), Thing(request_id="r"), True),
        (Thing(request_id="r"), Thing(request_id="s"), False),
        (Thing(request_id="r"), Thing(), False),
        (Thing(), Thing(), False),
        (Thing(request_id="r", text="a"), Thing(request_id="r", text="b"), False),
    ],
)
async def test_only_the_same_request_gets_what_it_created_before(
    first: Thing, second: Thing, is_repeat: bool, concurrently: bool
) -> None:
    async with running() as collection:
        if not concurrently:
            await create(collection, first)
        call = create(collection, second, rival=first if concurrently else None)
        if is_repeat:
            assert await call == await collection.get(NAME)
        else:
            with pytest.raises(ModelAlreadyExists):
                await call
        assert (await collection.get(NAME)).value == first


async def test_validation_alone_creates_nothing() -> None:
    async with running() as collection:
        assert await create(collection, Thing(), validate_only=True) == Versioned(Thing(), 0)
        assert collection.view.all() == []
        await create(collection, Thing())
        with pytest.raises(ModelAlreadyExists):
            await create(collection, Thing(), validate_only=True)
