"""Models that nobody has used for a while give their memory back; the next prediction opens them from their files."""

import asyncio
from datetime import timedelta
from typing import Protocol, runtime_checkable

from services.kit import heap
from services.kit.clock import Clock
from services.kit.log import Log
from services.kit.tasks import repeat
from services.predictor.cache import ModelCache

LOOKS = 4  # within the time after which a model rests

_log = Log(__name__)


@runtime_checkable
class Rests(Protocol):
    """A model that can do without its networks in memory until the next prediction."""

    def rest(self) -> None:
        """Frees them."""
        ...


async def run_rests(cache: ModelCache, clock: Clock, unused: timedelta) -> None:
    """Lets models rest until cancelled; returns at once if they are not to."""
    if not unused:
        return

    async def pass_() -> None:
        if rest_unused(cache, clock, unused):
            await asyncio.to_thread(heap.trim)

    await repeat(pass_, lambda: clock.sleep(unused.total_seconds() / LOOKS))


def rest_unused(cache: ModelCache, clock: Clock, unused: timedelta) -> int:
    """Lets those rest that nobody has used for so long; returns how many."""
    count = 0
    for entry in cache.unused(clock.now() - unused):
        if not entry.rests and isinstance(entry.runner, Rests):
            entry.runner.rest()
            entry.rests = True
            count += 1
            _log.info("model_rests", name=entry.bundle.model_name)
    return count
