"""A model in memory, and where models come from."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from services.predictor.domain import Bundle, LoadedModel, ModelRunner


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
    ended: bool = False  # dropped because the model was unloaded or deleted
    load_time: datetime | None = None  # None while loading
    last_used_time: datetime | None = None
    use_count: int = 0
    rests: bool = False  # it was told to, and has not been asked for since
    earlier: "Entry | None" = None  # that this one replaces once it is loaded; pinned until then
    refused: Bundle | None = None  # the newer one that could not be loaded

    @property
    def runner(self) -> ModelRunner:
        """The model itself; only valid while holding a pin."""
        return self.task.result().runner

    def answered(self, now: datetime) -> None:
        """Records an answered prediction."""
        self.last_used_time = now
        self.use_count += 1

    def describe(self, *, kept: bool) -> LoadedModel:
        """The model as callers see it; ValueError while loading."""
        if self.load_time is None:
            raise ValueError(f"{self.bundle} is not loaded yet")
        name, version = self.bundle.model_name, self.bundle.version
        return LoadedModel(name, version, self.size_bytes, self.load_time, self.last_used_time, self.use_count, kept)
