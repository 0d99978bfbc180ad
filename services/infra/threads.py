"""Blocking work off the event loop, in a bounded number of threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 500  # items per call in a thread


class Threads:
    """A separate pool, so that a slow store never starves other users of the loop's default executor.

    A cancelled caller returns at once; its thread goes on until the store answers, or has been silent for too long.
    """

    def __init__(self, workers: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises, called in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def iterate(self, items: Iterable[T]) -> AsyncIterator[T]:
        """The items of a blocking iterable, pulled in batches."""
        iterator = iter(items)
        while batch := await self.run(lambda: list(islice(iterator, BATCH))):
            for item in batch:
                yield item

    def close(self) -> None:
        """Accepts no more work; does not wait for running work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
