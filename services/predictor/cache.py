"""The models in memory: each is loaded once, they stay within a byte limit, and none is removed while in use."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from datetime import datetime

from services.kit import names
from services.kit.clock import Clock
from services.kit.errors import ModelNotFound, ProjectQuotaExceeded, QuotaExceeded
from services.kit.log import Log
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.domain import Bundle, LoadedModel, model_uri
from services.predictor.loaded import Entry, Loaded, Source
from services.predictor.metrics import CacheResult, Eviction
from sightline.plurals import counted

_log = Log(__name__)


class ModelCache:
    """An LRU cache with at most one bundle per model and at most `capacity_bytes` in total.

    A new bundle of a model replaces the earlier one when it is loaded. If that fails, the earlier one stays, unless
    its memory was needed.

    Law: concurrent requests for a bundle share one load, which outlives callers that give up. A pinned model stays
    usable until its last user is done, even if it is dropped meanwhile, and counts towards the capacity until then. A
    kept model, whichever its bundle, is never evicted for others until it is unloaded or deleted.
    """

    def __init__(
        self,
        source: Source,
        capacity_bytes: int,
        clock: Clock,
        telemetry: Telemetry,
        preloaded: Collection[str] = (),
        project_share: float = 1.0,
    ) -> None:
        """The models named in `preloaded` are kept whenever they are loaded; `project_share` is of `keep`."""
        self._source = source
        self._capacity_bytes = capacity_bytes
        self._preloaded = frozenset(preloaded)
        self._kept: set[str] = set()  # by `keep`
        self._kept_bytes_of_project = int(project_share * capacity_bytes)
        self._clock = clock
        self._telemetry = telemetry
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # by model name, least recently used first
        self._used_bytes = 0  # including dropped entries that are still pinned
        self._leaving_bytes = 0  # of dropped entries that are still pinned
        self._freed = asyncio.Event()
        telemetry.set(metrics.CAPACITY_BYTES, capacity_bytes)
        telemetry.set(metrics.KEPT_MODELS, 0)
        self._count(0)

    @asynccontextmanager
    async def use(self, bundle: Bundle, *, or_earlier: bool = False) -> AsyncGenerator[Entry]:
        """Loads the bundle, in place of any other of the same model, and pins it for the block.

        Raises QuotaExceeded if it does not fit next to the models in use, and whatever loading raises. With
        `or_earlier`, a bundle that the model had before and that is still in memory is used if loading fails, and from
        then on at once; whoever calls without it tries to load this one again.
        """
        entry = self._pinned(self._enter(bundle, or_earlier=or_earlier))
        try:
            try:
                await asyncio.shield(entry.task)
            except Exception:
                earlier = self._entries.get(bundle.model_name)
                if not or_earlier or earlier is None or earlier.refused != bundle:
                    raise
                self._unpin(entry)
                entry = self._pinned(earlier)
            yield entry
        finally:
            self._unpin(entry)

    def keep(self, entry: Entry) -> LoadedModel:
        """Keeps the model of a loaded entry, and describes it.

        Nothing is kept if the model was unloaded or deleted while the entry was in use. ProjectQuotaExceeded if its
        project keeps its share already.
        """
        name = entry.bundle.model_name
        if not entry.ended and not self.keeps(name):
            self._check_share(entry)
            self._kept.add(name)
            self._telemetry.set(metrics.KEPT_MODELS, len(self._kept))
        return entry.describe(kept=self.keeps(name))

    def keeps(self, model_name: str) -> bool:
        """Whether the model is kept."""
        return model_name in self._preloaded or model_name in self._kept

    def lacks(self, bundle: Bundle) -> bool:
        """Whether to load the bundle before anybody asks: the model is kept, or an earlier bundle answers instead."""
        present = self._entries.get(bundle.model_name)
        if present and present.bundle == bundle:
            return False
        return self.keeps(bundle.model_name) or (present is not None and present.refused == bundle)

    def unused(self, since: datetime) -> list[Entry]:
        """The loaded models that nobody has used since then, nobody uses now, and that are not kept."""
        return [one for one in self._idle() if one.load_time and (one.last_used_time or one.load_time) <= since]

    def unload(self, model_name: str) -> None:
        """Drops the model and no longer keeps it; ModelNotFound if it is neither in the cache nor kept."""
        if model_name not in self.names():
            raise ModelNotFound(name=model_name)
        self._end(model_name, Eviction.UNLOADED)

    def discard(self, model_name: str) -> None:
        """Drops a model that was deleted, and no longer keeps it; does nothing if it is not in the cache."""
        self._end(model_name, Eviction.DELETED)

    def names(self) -> list[str]:
        """The models that are loaded, being loaded, or to be kept."""
        return [*self._entries, *(self._kept - self._entries.keys())]

    def loaded(self) -> list[LoadedModel]:
        """The models that are ready to predict."""
        ready = (entry if entry.load_time else entry.earlier for entry in self._entries.values())
        return [entry.describe(kept=self.keeps(entry.bundle.model_name)) for entry in ready if entry]

    async def close(self) -> None:
        """Cancels the loads and drops every model; none may be in use."""
        entries = list(self._entries.values())
        for entry in entries:
            entry.task.cancel()
        await asyncio.gather(*(entry.task for entry in entries), return_exceptions=True)
        for name in self.names():
            self._end(name, Eviction.UNLOADED)

    def _end(self, model_name: str, reason: Eviction) -> None:
        """Drops the model and no longer keeps it."""
        self._kept.discard(model_name)
        self._telemetry.set(metrics.KEPT_MODELS, len(self._kept))
        if entry := self._entries.get(model_name):
            entry.ended = True
            self._drop(entry, reason)

    def _drop(self, entry: Entry, reason: Eviction) -> None:
        """Removes the entry, which is freed once it is no longer in use."""
        del self._entries[entry.bundle.model_name]
        self._drop_earlier(entry)
        self._telemetry.add(metrics.CACHE_EVICTIONS, reason=reason)
        self._leave(entry)

    def _check_share(self, entry: Entry) -> None:
        """ProjectQuotaExceeded if the project would keep more than its share with this entry."""
        project, _ = names.split(entry.bundle.model_name)
        kept = [one for name, one in self._entries.items() if name in self._kept and names.split(name)[0] == project]
        used, limit = sum(one.size_bytes for one in kept), self._kept_bytes_of_project
        if used + entry.size_bytes > limit:
            raise ProjectQuotaExceeded(
                subject=f"Project {project}, memory for models that LoadModel keeps",
                used=f"{counted(used, 'byte')} in use",
                asked=entry.size_bytes,
                limit=limit,
                setting="SIGHTLINE_PROJECT_SHARE",
                remedy="Unload another of them; a model predicts without LoadModel too.",
            )

    def _enter(self, bundle: Bundle, *, or_earlier: bool) -> Entry:
        """The entry that is to answer; it may still be loading."""
        present = self._entries.get(bundle.model_name)
        known = (present.bundle, present.refused if or_earlier else None) if present else ()
        entry = present if present and bundle in known else self._begin(bundle, present)
        self._entries.move_to_end(bundle.model_name)
        if or_earlier and entry.earlier and entry.earlier.refused == bundle:
            entry = entry.earlier
        result = CacheResult.HIT if entry.load_time else CacheResult.JOINED if entry is present else CacheResult.MISS
        self._telemetry.add(metrics.CACHE_REQUESTS, result=result)
        return entry

    def _begin(self, bundle: Bundle, present: Entry | None) -> Entry:
        """A new entry, which starts loading, in place of the present one."""
        entry = Entry(bundle)
        if present is not None and present.load_time:
            del self._entries[bundle.model_name]
            entry.earlier = self._pinned(present)
            self._leave(present)
        elif present is not None:
            entry.earlier, present.earlier = present.earlier, None
            self._drop(present, Eviction.REPLACED)
        if entry.earlier and model_uri(entry.earlier.bundle.uri) != model_uri(bundle.uri):
            self._drop_earlier(entry)  # of a deleted model of the same name
        self._entries[bundle.model_name] = entry
        entry.task = asyncio.create_task(self._load(entry), name=f"load {bundle.model_name} {bundle.version}")
        entry.task.add_done_callback(lambda task: self._load_ended(entry, task))
        return entry

    async def _load(self, entry: Entry) -> Loaded:
        start = self._clock.monotonic()
        with self._telemetry.tracer.span("bundle load", {"sightline.model": entry.bundle.model_name}) as span:
            await self._reserve(entry, await self._source.size_bytes(entry.bundle))
            loaded = await self._source.load(entry.bundle)
            span.set("sightline.bundle.size", entry.size_bytes)
        entry.load_time = self._clock.now()
        self._telemetry.observe(metrics.LOAD_SECONDS, self._clock.monotonic() - start)
        return loaded

    def _load_ended(self, entry: Entry, task: "asyncio.Task[Loaded]") -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._telemetry.add(metrics.LOAD_FAILURES)
        if error and self._entries.get(entry.bundle.model_name) is entry:
            del self._entries[entry.bundle.model_name]  # so that the next caller tries again
            self._leave(entry)
            self._restore_earlier(entry, error)
        self._drop_earlier(entry)
        self._unpin(entry)

    def _restore_earlier(self, entry: Entry, error: BaseException) -> None:
        """Puts back what the entry was to replace, unless its memory was needed."""
        if (earlier := entry.earlier) is None:
            return
        if earlier.refused != entry.bundle and isinstance(error, Exception):
            name, version = entry.bundle.model_name, entry.bundle.version
            _log.warning("earlier_bundle_stays", model=name, version=version, problem=str(error))
        earlier.refused, earlier.dropped, entry.earlier = entry.bundle, False, None
        self._leaving_bytes -= earlier.size_bytes
        self._entries[entry.bundle.model_name] = earlier
        self._unpin(earlier)

    def _drop_earlier(self, entry: Entry) -> None:
        """Frees what the entry replaces, once it is no longer in use."""
        if entry.earlier:
            self._telemetry.add(metrics.CACHE_EVICTIONS, reason=Eviction.REPLACED)
            self._unpin(entry.earlier)
            entry.earlier = None

    async def _reserve(self, entry: Entry, size_bytes: int) -> None:
        while not self._make_room(size_bytes):
            if (needed := self._needed(size_bytes) - self._leaving_bytes) > self._capacity_bytes:
                raise QuotaExceeded(
                    subject=f"Memory for {entry.bundle.model_name}, together with the models in use and those that are"
                    " kept (LoadModel, SIGHTLINE_PRELOAD_MODELS)",
                    value=needed,
                    limit=self._capacity_bytes,
                    setting="SIGHTLINE_MODEL_CACHE_BYTES",
                )
            self._freed.clear()  # dropped models are freed once their predictions finish
            for one in self._entries.values():
                self._drop_earlier(one)
            await self._freed.wait()
        entry.size_bytes = size_bytes
        self._leaving_bytes += size_bytes if entry.dropped else 0
        self._count(size_bytes)

    def _make_room(self, size_bytes: int) -> bool:
        """Evicts as many models as necessary; none, and False, if that would not be enough."""
        if self._needed(size_bytes) > self._capacity_bytes:
            return False
        for entry in self._idle():
            if self._used_bytes + size_bytes <= self._capacity_bytes:
                break
            self._drop(entry, Eviction.CAPACITY)
        return True

    def _idle(self) -> list[Entry]:
        """The models that may be evicted, least recently used first."""
        return [entry for name, entry in self._entries.items() if not entry.pins and not self.keeps(name)]

    def _needed(self, size_bytes: int) -> int:
        """The memory for so much and everything that may not be evicted."""
        return self._used_bytes - sum(entry.size_bytes for entry in self._idle()) + size_bytes

    def _leave(self, entry: Entry) -> None:
        entry.dropped = True
        self._leaving_bytes += entry.size_bytes
        if not entry.pins:
            self._free(entry)

    def _pinned(self, entry: Entry) -> Entry:
        entry.pins += 1
        entry.rests = False
        return entry

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
