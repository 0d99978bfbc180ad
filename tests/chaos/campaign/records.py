"""A campaign on the records and the queue alone: many operations against three nats-servers that die all the time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from services.infra.jetstream import connect
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.kit.errors import Conflict, RecordExists, RecordNotFound, Unavailable
from services.kit.records import Deleted, Record, Records, Synced
from tests.chaos.campaign.history import History, Violation

KEYS = 12  # of each lane
WEIGHTS = {"create": 3, "update": 8, "delete": 2, "get": 4, "count": 2, "publish": 2}
COUNTER, KIND = "models/counter", "campaign"
ACK_WAIT = timedelta(seconds=3)
SETTLE_SECONDS = 60.0  # after the last fault, until everything must be as it should


@dataclass(slots=True)
class Tally:
    """What was done: operations that were acknowledged and those that were not, and broken invariants."""

    acknowledged: Counter[str] = field(default_factory=Counter[str])
    unanswered: Counter[str] = field(default_factory=Counter[str])
    violations: list[str] = field(default_factory=list[str])
    counted: Counter[str] = field(default_factory=Counter[str])  # increments by lane
    perhaps_counted: Counter[str] = field(default_factory=Counter[str])
    published: set[str] = field(default_factory=set[str])
    delivered: Counter[str] = field(default_factory=Counter[str])
    longest_seconds: float = 0.0  # that a call took


class Lane:
    """One caller with keys of its own; its seed decides what it calls, whatever the answers are."""

    def __init__(self, number: int, seed: str, records: Records, queue: JetStreamQueue, tally: Tally) -> None:
        self.name = f"lane{number}"
        self._chance = Random(f"{seed}/{self.name}")
        self._records, self._queue, self._tally = records, queue, tally
        self.histories = [History[bytes](f"datasets/{self.name}-{key}") for key in range(KEYS)]
        self._serial = 0

    async def step(self) -> None:
        """One operation."""
        what = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        history, self._serial = self._chance.choice(self.histories), self._serial + 1
        value = f"{self.name} {self._serial}".encode() + b"." * self._chance.randrange(400)
        began = time.monotonic()
        try:
            if what == "count":
                await self._count()
            elif what == "publish":
                await self._publish()
            else:
                await self._use(what, history, value)
            self._tally.acknowledged[what] += 1
        except Unavailable:
            self._tally.unanswered[what] += 1
            await asyncio.sleep(0.1)
        except Violation as broken:
            self._tally.violations.append(str(broken))
            history.pending.clear()
        self._tally.longest_seconds = max(self._tally.longest_seconds, time.monotonic() - began)

    async def _use(self, what: str, history: History[bytes], value: bytes) -> None:
        """Reads or writes the key, whichever its state allows."""
        if what == "get" or history.pending:
            await check(self._records, history)
        elif history.value is None:
            await self._write(history, value, lambda: self._records.create(history.name, value))
        elif what == "delete":
            await self._write(history, None, lambda: self._records.delete(history.name, history.revision))
        else:
            await self._write(history, value, lambda: self._records.update(history.name, value, history.revision))

    async def _write(
        self, history: History[bytes], value: bytes | None, write: Callable[[], Coroutine[Any, Any, int]]
    ) -> None:
        try:
            history.written(value, await write())
        except Unavailable:
            history.lost_sight(value)
            raise
        except (Conflict, RecordExists) as error:
            history.refused(type(error).__name__)
            await check(self._records, history)

    async def _count(self) -> None:
        """Adds one to this lane's count in the record that all lanes change."""
        while True:
            try:
                found = await self._records.get(COUNTER)
            except RecordNotFound:
                with contextlib.suppress(RecordExists):
                    await self._records.create(COUNTER, b"{}")
                continue
            counts: dict[str, int] = json.loads(found.value)
            counts[self.name] = counts.get(self.name, 0) + 1
            try:
                await self._records.update(COUNTER, json.dumps(counts).encode(), found.revision)
            except Conflict:
                continue
            except Unavailable:
                self._tally.perhaps_counted[self.name] += 1
                raise
            self._tally.counted[self.name] += 1
            return

    async def _publish(self) -> None:
        job = f"{self.name}/{self._serial}"
        await self._queue.publish(KIND, job.encode(), job)
        self._tally.published.add(job)


async def check(records: Records, history: History[bytes]) -> None:
    """Violation unless the record is as its lane knows it."""
    try:
        found = await records.get(history.name)
    except RecordNotFound:
        history.read(None, 0)
    else:
        history.read(found.value, found.revision)


class Story:
    """All lanes, those who take the jobs, and one who watches the records."""

    def __init__(self, seed: str, url: str, lanes: int) -> None:
        self.tally = Tally()
        self._seed, self._url, self._lanes = seed, url, lanes
        self._seen: dict[str, tuple[bytes, int]] = {}
        self._settled = asyncio.Event()

    async def run(self, over: asyncio.Event) -> None:
        """Calls until `over` is set; then checks everything, within SETTLE_SECONDS."""
        async with self._connected("watch") as (records, _), asyncio.TaskGroup() as group:
            others = [group.create_task(self._watch(records)), *(group.create_task(self._take()) for _ in range(2))]
            lanes = [group.create_task(self._run(number, over)) for number in range(self._lanes)]
            histories = [history for lane in lanes for history in (await lane)]
            await self._settle(records, histories)
            for task in others:
                task.cancel()

    @contextlib.asynccontextmanager
    async def _connected(self, name: str) -> AsyncGenerator[tuple[JetStreamRecords, JetStreamQueue]]:
        connection = await connect(self._url, name)
        try:
            yield (
                JetStreamRecords(connection, replicas=3),
                JetStreamQueue(connection, ACK_WAIT, replicas=3),
            )
        finally:
            await connection.close()

    async def _run(self, number: int, over: asyncio.Event) -> list[History[bytes]]:
        async with self._connected(f"lane{number}") as (records, queue):
            lane = Lane(number, self._seed, records, queue, self.tally)
            while not over.is_set():
                await lane.step()
            return lane.histories

    async def _take(self) -> None:
        async with self._connected("worker") as (_, queue):
            while True:
                if delivery := await queue.fetch(KIND, timedelta(seconds=1)):
                    self.tally.delivered[delivery.body.decode()] += 1
                    await delivery.ack()

    async def _watch(self, records: JetStreamRecords) -> None:
        """Keeps a copy of all datasets, as a view does."""
        while True:
            fresh: dict[str, tuple[bytes, int]] = {}
            with contextlib.suppress(Unavailable):
                async for change in records.watch("datasets"):
                    match change:
                        case Record(key, value, revision):
                            fresh[key] = value, revision
                        case Deleted(key):
                            fresh.pop(key, None)
                        case Synced():
                            self._seen = fresh
            await asyncio.sleep(0.2)

    async def _settle(self, records: JetStreamRecords, histories: list[History[bytes]]) -> None:
        """Adds what does not hold after SETTLE_SECONDS to the violations."""
        deadline, tally = time.monotonic() + SETTLE_SECONDS, self.tally
        while problems := await self._problems(records, histories):
            if time.monotonic() > deadline:
                tally.violations += problems
                return
            await asyncio.sleep(0.5)

    async def _problems(self, records: JetStreamRecords, histories: list[History[bytes]]) -> list[str]:
        problems = list[str]()
        for history in histories:
            try:
                await check(records, history)
            except (Unavailable, Violation) as error:
                problems.append(f"in the end, {error}")
        kept = {one.name: (one.value, one.revision) for one in histories if one.value is not None}
        problems += [
            f"the watch has {key} otherwise"
            for key in kept.keys() | self._seen.keys()
            if kept.get(key) != self._seen.get(key)
        ]
        lost = self.tally.published - self.tally.delivered.keys()
        problems += [f"job {job} was never delivered" for job in sorted(lost)[:5]]
        return problems + await self._miscounted(records)

    async def _miscounted(self, records: JetStreamRecords) -> list[str]:
        try:
            counts: dict[str, int] = json.loads((await records.get(COUNTER)).value)
        except RecordNotFound:
            counts = {}
        except Unavailable as error:
            return [f"in the end, {error}"]
        tally = self.tally
        return [
            f"{lane} was counted {counts.get(lane, 0)} times; {least} were acknowledged, {more} unanswered"
            for lane in counts.keys() | tally.counted.keys()
            if not (least := tally.counted[lane])
            <= counts.get(lane, 0)
            <= least + (more := tally.perhaps_counted[lane])
        ]
