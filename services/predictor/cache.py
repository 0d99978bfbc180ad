"""The models in memory: each is loaded once, they stay within a byte limit, and none is removed while in use."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from services.kit.clock import Clock
from services.kit.errors import ModelNotFound, QuotaExceeded
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.domain import Bundle, LoadedModel, ModelRunner
from services.predictor.metrics import CacheResult, Eviction


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to predict, and the folder with its files."""

    runner: ModelRunner
    directory: Path


class Source(Protocol):
    """Where models come from."""

    async def size_bytes(self, bundle: Bundle) -> int:
        """The memory that the bundle will take, known before it is loaded."""
        ...

    async def load(self, bundle: Bundle) -> Loaded:
        """Fetches, checks, loads and warms up the model; leaves nothing behind if it fails."""
        ...

    def discard(self, loaded: Loaded) -> None:
        """Removes the files of a model that is no longer used."""
        ...


@dataclass(slots=True, eq=False)
class Entry:
    """A model in the cache, from the moment it starts loading."""

    bundle: Bundle
    task: "asyncio.Task[Loaded]" = field(init=False)
    size_bytes: int = 0  # 0 until its memory is reserved
    pins: int = 1  # one for the load
    dropped: bool = False  # freed when the last pin is gone
    load_time: datetime | None = None  # None while loading
    last_used_time: datetime | None = None
    use_count: int = 0

    @property
    def runner(self) -> ModelRunner:
        """The model itself; only valid while holding a pin."""
        return self.task.result().runner

    def answered(self, now: datetime) -> None:
        """Records an answered prediction."""
        self.last_used_time = now
        self.use_count += 1

    def describe(self) -> LoadedModel:
        """The model as callers see it; ValueError while loading."""
        if self.load_time is None:
            raise ValueError(f"{self.bundle} is not loaded yet")
        name, version = self.bundle.model_name, self.bundle.version
        return LoadedModel(name, version, self.size_bytes, self.load_time, self.last_used_time, self.use_count)


class ModelCache:
    """An LRU cache with at most one bundle per model and at most `capacity_bytes` in total.

    Law: concurrent requests for a bundle share one load, which outlives callers that give up. A pinned model stays
    usable until its last user is done, even if it is dropped meanwhile, and counts towards the capacity until then.
    """

    def __init__(
        self,
        source: Source,
        capacity_bytes: int,
        clock: Clock,
        telemetry: Telemetry,
        kept: Collection[str] = (),
    ) -> None:
        """The models named in `kept` are never evicted for others."""
        self._source = source
        self._capacity_bytes = capacity_bytes
        self._kept = frozenset(kept)
        self._clock = clock
        self._telemetry = telemetry
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # by model name, least recently used first
        self._used_bytes = 0  # including dropped entries that are still pinned
        self._leaving_bytes = 0  # of dropped entries that are still pinned
        self._freed = asyncio.Event()
        telemetry.set(metrics.CAPACITY_BYTES, capacity_bytes)
        self._count(0)

    @asynccontextmanager
    async def use(self, bundle: Bundle) -> AsyncGenerator[Entry]:
        """Loads the bundle and pins it for the block; drops any other bundle of the same model.

        Raises QuotaExceeded if it does not fit next to the models in use, and whatever loading raises.
        """
        entry = self._enter(bundle)
        entry.pins += 1
        try:
            await asyncio.shield(entry.task)
            yield entry
        finally:
            self._unpin(entry)

    def drop(self, model_name: str, reason: Eviction) -> None:
        """Removes the model and frees it once it is no longer in use; ModelNotFound if it is not in the cache."""
        entry = self._entries.pop(model_name, None)
        if entry is None:
            raise ModelNotFound(name=model_name)
        self._telemetry.add(metrics.CACHE_EVICTIONS, reason=reason)
        self._leave(entry)

    def discard(self, model_name: str) -> None:
        """Drops a model that was deleted; does nothing if it is not in the cache."""
        if model_name in self._entries:
            self.drop(model_name, Eviction.DELETED)

    def names(self) -> list[str]:
        """The models that are loaded or being loaded."""
        return list(self._entries)

    def loaded(self) -> list[LoadedModel]:
        """The models that are ready to predict."""
        return [entry.describe() for entry in self._entries.values() if entry.load_time]

    async def close(self) -> None:
        """Cancels the loads and drops every model; none may be in use."""
        entries = list(self._entries.values())
        for entry in entries:
            entry.task.cancel()
        await asyncio.gather(*(entry.task for entry in entries), return_exceptions=True)
        for name in self.names():
            self.drop(name, Eviction.UNLOADED)

    def _enter(self, bundle: Bundle) -> Entry:
        present = self._entries.get(bundle.model_name)
        if present is not None and present.bundle == bundle:
            self._entries.move_to_end(bundle.model_name)
            result = CacheResult.HIT if present.load_time else CacheResult.JOINED
            self._telemetry.add(metrics.CACHE_REQUESTS, result=result)
            return present
        if present is not None:
            self.drop(bundle.model_name, Eviction.REPLACED)
        self._telemetry.add(metrics.CACHE_REQUESTS, result=CacheResult.MISS)
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
            del self._entries[entry.bundle.model_name]  # so that the next caller tries again
            self._leave(entry)
        self._unpin(entry)

    async def _reserve(self, entry: Entry, size_bytes: int) -> None:
        while not self._make_room(size_bytes):
            if not self._leaving_bytes:
                raise QuotaExceeded(
                    subject=f"Memory for {entry.bundle.model_name} next to the models in use",
                    value=size_bytes,
                    limit=self._capacity_bytes,
                    setting="SIGHTLINE_MODEL_CACHE_BYTES",
                )
            self._freed.clear()  # dropped models are freed once their predictions finish
            await self._freed.wait()
        entry.size_bytes = size_bytes
        self._leaving_bytes += size_bytes if entry.dropped else 0
        self._count(size_bytes)

    def _make_room(self, size_bytes: int) -> bool:
        """Evicts as many models as necessary; none, and False, if that would not be enough."""
        idle = [entry for name, entry in self._entries.items() if not entry.pins and name not in self._kept]
        if self._used_bytes - sum(entry.size_bytes for entry in idle) + size_bytes > self._capacity_bytes:
            return False
        for entry in idle:
            if self._used_bytes + size_bytes <= self._capacity_bytes:
                break
            self.drop(entry.bundle.model_name, Eviction.CAPACITY)
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
