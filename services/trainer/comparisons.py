"""Paired tests of predictions in the store, each computed once."""

import asyncio

from services.kit.blobs import Blobs
from services.trainer.planner.significance import Significance, significance
from services.trainer.predictions import read_outcomes

MAX_REMEMBERED = 10_000


class Comparisons:
    """Compares one pair at a time: files of a million images take some hundred megabytes meanwhile."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._found: dict[tuple[str, str], Significance | None] = {}  # blobs never change, so these do not either
        self._turn = asyncio.Lock()

    async def of(self, first: str, second: str) -> Significance | None:
        """The test of the predictions at two keys; None if there is nothing to compare. Raises BlobNotFound."""
        pair = first, second
        async with self._turn:
            if pair not in self._found:
                contents = await self._blobs.get(first), await self._blobs.get(second)
                if len(self._found) >= MAX_REMEMBERED:
                    self._found.clear()
                self._found[pair] = await asyncio.to_thread(_compared, *contents)
            return self._found[pair]


def _compared(first: bytes, second: bytes) -> Significance | None:
    return significance(read_outcomes(first), read_outcomes(second))
