"""A dataset as batch predictions see it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Dataset:
    """The present version of a READY dataset."""

    name: str
    version: int
    manifest_key: str
    image_count: int = 0


class Datasets(Protocol):
    """The dataset service as seen from here."""

    async def get(self, name: str) -> Dataset:
        """The dataset; DatasetNotFound, DatasetNotReady, or Unavailable."""
        ...

    async def revision(self, name: str) -> int:
        """The revision of its record, whichever version is READY.

        DatasetNotFound, DatasetNotReady if it is DELETING, or Unavailable.
        """
        ...
