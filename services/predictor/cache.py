"""Models in memory: loaded once however many ask, kept within a number of bytes, never taken from under a user."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from services.kit.clock import Clock
from services.kit.errors import ModelNotFound, QuotaExceeded
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.domain import Bundle, LoadedModel, Recogniser


@dataclass(frozen=True, slots=True)
class Loaded:
    """A recogniser ready to predict, and the folder of its files."""

    recogniser: Recogniser
    directory: Path


class Source(Protocol):
    """Where models come from."""

    async def size_bytes(self, bundle: Bundle) -> int:
        """Memory that the bundle will take, known before it is loaded."""
        ...

    async def load(self, bundle: Bundle) -> Loaded:
        """Fetches, checks, loads and warms; leaves nothing behind when it fails."""
        ...

    def discard(self, loaded: Loaded) -> None:
        """Removes the files of a model that is no longer used."""
        ...


@dataclass(slots=True, eq=False)
class Entry:
    """A model in the cache, from the moment its loading begins."""

    bundle: Bundle
    task: "asyncio.Task[Loaded]" = field(init=False)
    size_bytes: int = 0  # 0 until its place is reserved
    pins: int = 1  # its own loading's
    dropped: bool = False  # leaves when the last pin does
    load_time: datetime | None = None  # None while it loads
    last_used_time: datetime | None = None
    use_count: int = 0

    @property
    def recogniser(self) -> Recogniser:
        """The model itself; only for who holds a pin."""
        return self.task.result().recogniser

    def answered(self, now: datetime) -> None:
        """Counts an image that the model has answered for."""
        self.last_used_time = now
        self.use_count += 1

    def describe(self) -> LoadedModel:
        """The entry as callers see it, once it is loaded."""
        if self.load_time is None:
            raise ValueError(f"{self.bundle} is not loaded yet")
        name, version = self.bundle.model_name, self.bundle.version
        return LoadedModel(name, version, self.size_bytes, self.load_time, self.last_used_time, self.use_count)


class ModelCache:
    """At most one bundle per model, at most `capacity_bytes` in all, the least recently used leaving first.

    Law: a bundle loads once however many ask at once, and the load outlives the callers that gave up. What is
    pinned stays whole until its last user is done, also when it was dropped meanwhile, and counts until then.
    """

    def __init__(self, source: Source, capacity_bytes: int, clock: Clock, telemetry: Telemetry) -> None:
        self._source = source
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._telemetry = telemetry
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # by model name, least recently used first
        self._used_bytes = 0  # of entries and of those that leave
        self._leaving_bytes = 0  # of dropped entries that are still pinned
        self._freed = asyncio.Event()
        telemetry.set(metrics.CAPACITY_BYTES, capacity_bytes)
        self._count(0)

    @asynccontextmanager
    async def use(self, bundle: Bundle) -> AsyncGenerator[Entry]:
        """The bundle in memory, pinned for the block; another bundle of the same model is dropped.

        Raises QuotaExceeded if it does not fit beside the models that are in use, and what loading raises.
        """
        entry = self._enter(bundle)
        entry.pins += 1
        try:
            await asyncio.shield(entry.task)
            yield entry
        finally:
            self._unpin(entry)

    def drop(self, model_name: str, reason: str) -> None:
        """The model leaves as soon as nobody uses it; ModelNotFound if it is not here."""
        entry = self._entries.pop(model_name, None)
        if entry is None:
            raise ModelNotFound(name=model_name)
        self._telemetry.add(metrics.CACHE_EVICTIONS, reason=reason)
        self._leave(entry)

    def discard(self, model_name: str) -> None:
        """As drop, for a model that was deleted; nothing if it is not here."""
        if model_name in self._entries:
            self.drop(model_name, "deleted")

    def names(self) -> list[str]:
        """The models that are here or being loaded."""
        return list(self._entries)

    def loaded(self) -> list[LoadedModel]:
        """Every model that is ready."""
        return [entry.describe() for entry in self._entries.values() if entry.load_time]

    async def close(self) -> None:
        """Ends the loads and drops every model; nobody may be using one."""
        entries = list(self._entries.values())
        for entry in entries:
            entry.task.cancel()
        await asyncio.gather(*(entry.task for entry in entries), return_exceptions=True)
        for name in self.names():
            self.drop(name, "unloaded")

    def _enter(self, bundle: Bundle) -> Entry:
        present = self._entries.get(bundle.model_name)
        if present is not None and present.bundle == bundle:
            self._entries.move_to_end(bundle.model_name)
            self._telemetry.add(metrics.CACHE_REQUESTS, result="hit" if present.load_time else "joined")
            return present
        if present is not None:
            self.drop(bundle.model_name, "replaced")
        self._telemetry.add(metrics.CACHE_REQUESTS, result="miss")
        entry = Entry(bundle)
        self._entries[bundle.model_name] = entry
        entry.task = asyncio.create_task(self._load(entry), name=f"load {bundle.model_name} {bundle.version}")
        entry.task.add_done_callback(lambda task: self._load_ended(entry, task))
        return entry

    async def _load(self, entry: Entry) -> Loaded:
        start = self._clock.monotonic()
        await self._reserve(entry, await self._source.size_bytes(entry.bundle))
        loaded = await self._source.load(entry.bundle)
        entry.load_time = self._clock.now()
        self._telemetry.observe(metrics.LOAD_SECONDS, self._clock.monotonic() - start)
        return loaded

    def _load_ended(self, entry: Entry, task: "asyncio.Task[Loaded]") -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and not task.cancelled():
            self._telemetry.add(metrics.LOAD_FAILURES)
        if failed and self._entries.get(entry.bundle.model_name) is entry:
            del self._entries[entry.bundle.model_name]  # the next caller tries again
            self._leave(entry)
        self._unpin(entry)

    async def _reserve(self, entry: Entry, size_bytes: int) -> None:
        while not self._make_room(size_bytes):
            if not self._leaving_bytes:
                raise QuotaExceeded(
                    subject=f"Memory for {entry.bundle.model_name} beside the models in use",
                    value=size_bytes,
                    limit=self._capacity_bytes,
                    setting="SIGHTLINE_MODEL_CACHE_BYTES",
                )
            self._freed.clear()  # what leaves is gone as soon as its predictions are answered
            await self._freed.wait()
        entry.size_bytes = size_bytes
        self._leaving_bytes += size_bytes if entry.dropped else 0
        self._count(size_bytes)

    def _make_room(self, size_bytes: int) -> bool:
        """Evicts what it takes, or nothing if that would not be enough."""
        idle = [entry for entry in self._entries.values() if not entry.pins]
        if self._used_bytes - sum(entry.size_bytes for entry in idle) + size_bytes > self._capacity_bytes:
            return False
        for entry in idle:
            if self._used_bytes + size_bytes <= self._capacity_bytes:
                break
            self.drop(entry.bundle.model_name, "capacity")
        return True

    def _leave(self, entry: Entry) -> None:
        entry.dropped = True
        self._leaving_bytes += entry.size_bytes
        if not entry.pins:
            self._free(entry)

    def _unpin(self, entry: Entry) -> None:
        entry.pins -= 1
        if entry.dropped and not entry.pins:
            self._free(entry)

    def _free(self, entry: Entry) -> None:
        self._leaving_bytes -= entry.size_bytes
        self._count(-entry.size_bytes)
        if not entry.task.cancelled() and entry.task.exception() is None:
            self._source.discard(entry.task.result())
        self._freed.set()

    def _count(self, size_bytes: int) -> None:
        self._used_bytes += size_bytes
        self._telemetry.set(metrics.LOADED_BYTES, self._used_bytes)
        self._telemetry.set(metrics.LOADED_MODELS, len(self._entries))
