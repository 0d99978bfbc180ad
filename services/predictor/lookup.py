"""Looks up models at the trainer, with a short-lived cache."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from services.kit.clock import Clock
from services.kit.errors import ModelNotFound, Unavailable
from services.kit.log import Log
from services.predictor.domain import ModelInfo, Models

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    info: ModelInfo
    until: float  # monotonic; looked up again after this
    stale: bool = False  # the last lookup got no response


class ModelLookup:
    """Asks the trainer at most once per model and `fresh_seconds`, however many callers there are.

    Deletions and new bundles are noticed within `fresh_seconds`. While the trainer does not respond, its last answer is
    used without waiting: an outage of training must not become an outage of prediction.
    """

    def __init__(self, models: Models, clock: Clock, fresh_seconds: float, on_gone: Callable[[str], None]) -> None:
        self._models = models
        self._clock = clock
        self._fresh_seconds = fresh_seconds
        self._on_gone = on_gone  # called with the name of a model that no longer exists
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[ModelInfo]] = {}

    async def find(self, name: str) -> ModelInfo:
        """The model; ModelNotFound, or Unavailable if the trainer does not respond and there is no earlier answer."""
        known = self._known.get(name)
        if known is not None and self._clock.monotonic() < known.until:
            return known.info
        asking = self._asking.get(name)
        if asking is None:
            asking = asyncio.create_task(self._ask(name), name=f"look up {name}")
            self._asking[name] = asking
            asking.add_done_callback(lambda task: self._asked(name, task))
        if known is not None and known.stale:
            return known.info
        return await asyncio.shield(asking)  # shared: a caller that leaves must not cancel it

    async def list(self) -> list[ModelInfo]:
        """The models of the call's project, as the trainer lists them now."""
        return await self._models.list()

    def forget_except(self, names: Collection[str]) -> None:
        """Forgets all other models, and aliases of others, which bounds memory by the models in use."""
        self._known = {name: known for name, known in self._known.items() if known.info.name in names}

    async def _ask(self, name: str) -> ModelInfo:
        try:
            info = await self._models.get(name)
        except ModelNotFound:
            self._known.pop(name, None)
            self._on_gone(name)
            raise
        except Unavailable as error:
            return self._last_answer(name, error)
        self._known[name] = _Known(info, self._clock.monotonic() + self._fresh_seconds)
        return info

    def _last_answer(self, name: str, error: Unavailable) -> ModelInfo:
        known = self._known.get(name)
        if known is None:
            raise error
        if not known.stale:
            log.warning("trainer_unreachable", model=name, problem=error.message)
        self._known[name] = _Known(known.info, self._clock.monotonic() + self._fresh_seconds, stale=True)
        return known.info

    def _asked(self, name: str, task: asyncio.Task[ModelInfo]) -> None:
        del self._asking[name]
        if not task.cancelled():
            task.exception()  # retrieved, as every caller may have left
