"""Random walks over the records, in the double and in a real nats-server, beside a dictionary that does the same.

SIGHTLINE_WALK is the number of steps on the double; on nats-server it is a tenth of that.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from services.infra.jetstream import connect
from services.infra.jetstream_records import JetStreamRecords
from services.kit.errors import Conflict, RecordExists, RecordNotFound
from services.kit.memory import MemoryRecords
from services.kit.records import Deleted, Record, Records, Synced
from tests.support.servers import NatsServer

Run = Callable[[Coroutine[Any, Any, Any]], Any]
STEPS = int(os.environ.get("SIGHTLINE_WALK", "4000"))
STEPS_OF_A_WALK = 50
pytestmark = pytest.mark.timeout(60 + STEPS // 50)
KEYS = st.sampled_from(["models/a", "models/a.b", "models/a.b/trials/t0", "models/b"])
VALUES = st.binary(max_size=40)
OFFSETS = st.sampled_from([0, 0, 0, 0, -1, 1])  # of the revision that a write names from the record's own


class Walk(RuleBasedStateMachine):
    """Calls in any order; `known` is what there must be."""

    def __init__(self, run: Run, records: Records) -> None:
        super().__init__()
        self.run, self.records = run, records
        self.project = f"projects/{uuid.uuid4().hex[:8]}/"  # of this walk alone
        self.known: dict[str, Record] = {}
        self.last: dict[str, int] = {}  # the revision that each key's last value has, or had before it was deleted
        self.newest = 0

    def written(self, key: str, value: bytes, revision: int) -> None:
        assert revision > self.newest, f"{revision} after {self.newest}"
        self.newest = self.last[key] = revision
        self.known[key] = Record(key, value, revision)

    def wrong(self, key: str, offset: int) -> int:
        """A revision that the record does not have; nor has its deletion, which is to wait for only."""
        return self.last.get(key, 1) + (offset if key in self.known else min(offset, 0))

    @rule(key=KEYS, value=VALUES)
    def create(self, key: str, value: bytes) -> None:
        key = self.project + key
        if key in self.known:
            with pytest.raises(RecordExists, match=key):
                self.run(self.records.create(key, value))
            return
        self.written(key, value, self.run(self.records.create(key, value)))

    @rule(key=KEYS, value=VALUES, offset=OFFSETS)
    def update(self, key: str, value: bytes, offset: int) -> None:
        key = self.project + key
        present = self.known.get(key)
        if present is None or offset:
            with pytest.raises(Conflict):
                self.run(self.records.update(key, value, self.wrong(key, offset)))
            return
        self.written(key, value, self.run(self.records.update(key, value, present.revision)))

    @rule(key=KEYS, offset=OFFSETS)
    def delete(self, key: str, offset: int) -> None:
        key = self.project + key
        present = self.known.get(key)
        if present is None or offset:
            with pytest.raises(Conflict):
                self.run(self.records.delete(key, self.wrong(key, offset)))
            return
        deleted = self.run(self.records.delete(key, present.revision))
        assert deleted > self.newest
        self.newest = deleted
        del self.known[key]

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        key = self.project + key
        if key in self.known:
            assert self.run(self.records.get(key)) == self.known[key]
        else:
            with pytest.raises(RecordNotFound, match=key):
                self.run(self.records.get(key))

    @rule(key=KEYS, values=st.lists(VALUES, min_size=2, max_size=4))
    def race(self, key: str, values: list[bytes]) -> None:
        """Several writers at one revision: one wins."""
        key = self.project + key
        present = self.known.get(key)
        if present is None:
            writes = [self.records.create(key, value) for value in values]
        else:
            writes = [self.records.update(key, value, present.revision) for value in values]
        outcomes = self.run(_all(writes))
        won = [(value, found) for value, found in zip(values, outcomes, strict=True) if isinstance(found, int)]
        assert len(won) == 1, outcomes
        assert sum(isinstance(found, Conflict | RecordExists) for found in outcomes) == len(values) - 1, outcomes
        self.written(key, *won[0])

    @rule()
    def watch(self) -> None:
        for collections in (("models",), ("models", "trials")):
            wanted = {key: found for key, found in self.known.items() if ("trials" in key) == (len(collections) == 2)}
            seen = self.run(_seen(self.records, collections))
            assert {key: found for key, found in seen.items() if key.startswith(self.project)} == wanted

    @invariant()
    def revisions_are_of_the_last_writes(self) -> None:
        assert all(found.revision <= self.newest for found in self.known.values())


async def _all(writes: Iterable[Coroutine[Any, Any, int]]) -> list[int | BaseException]:
    return await asyncio.gather(*writes, return_exceptions=True)


async def _seen(records: Records, collections: tuple[str, ...]) -> dict[str, Record]:
    """What a watch yields until it has yielded everything."""
    seen: dict[str, Record] = {}
    watch = records.watch(*collections)
    async for change in watch:
        match change:
            case Record(key):
                seen[key] = change
            case Deleted(key):
                seen.pop(key, None)
            case Synced():
                break
    with suppress(AttributeError):
        await watch.aclose()  # pyright: ignore[reportAttributeAccessIssue] - generators have it
    return seen


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a coroutine on a loop that goes on between the calls, so that connections stay alive."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def walk(run: Run, records: Records, steps: int) -> None:
    """Walks so many steps."""
    run_state_machine_as_test(
        lambda: Walk(run, records),  # pyright: ignore[reportArgumentType] - any factory will do
        settings=settings(
            max_examples=max(1, steps // STEPS_OF_A_WALK),
            stateful_step_count=STEPS_OF_A_WALK,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            phases=[Phase.generate],  # a walk cannot be shrunk quickly: every step is a call
        ),
    )


def test_the_double_does_what_a_dictionary_does(run: Run) -> None:
    walk(run, MemoryRecords(), STEPS)


def test_nats_server_does_what_a_dictionary_does(run: Run, nats_server: NatsServer) -> None:
    connection = run(connect(nats_server.url, "walk"))
    try:
        walk(run, JetStreamRecords(connection, f"walk_{uuid.uuid4().hex[:8]}"), STEPS // 10)
    finally:
        run(connection.close())
