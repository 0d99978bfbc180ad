"""Kept images in the store, each with a record beside it: `feedback/{day}/{project}/{model}/{time}-{id}`.

Days come first, so that what has expired is at the beginning of the list.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from services.kit import codec, names
from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound
from services.kit.log import Log

ROOT = "feedback/"
RECORD = ".json"
MAX_RECORDS = 5000  # that are read for one model, the latest
READS_AT_ONCE = 16
_TIME = "%H%M%S%f"

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """What the model found: a category, for detectors with its box in pixels of the upright image."""

    name: str
    confidence: float
    box: tuple[int, int, int, int] | None = None  # x, y, width, height


@dataclass(frozen=True, slots=True)
class Kept:
    """The record of an image that is kept."""

    model_name: str  # with its project
    model_version: str
    time: datetime
    extension: str  # of the image's file, such as `jpg`
    width: int  # of the upright image
    height: int
    confidence: float  # in the least certain of the model's decisions
    uncertainty: float  # 0..1, by which images are ranked
    detects: bool  # whether the model is a detector
    look: str  # the perceptual hash of what the network saw, in hexadecimal digits
    marks: tuple[Mark, ...]  # what the model answers by default
    id: str = ""

    @property
    def key(self) -> str:
        """Where the record is, without its extension."""
        return f"{_prefix(self.time.date(), self.model_name)}{self.time:{_TIME}}-{self.id}"


class FeedbackStore:
    """Law: an image without its record is not there, and whatever is there goes once it is `retention` old."""

    def __init__(self, blobs: Blobs, retention: timedelta) -> None:
        self._blobs = blobs
        self._retention = retention

    async def put(self, kept: Kept, image: bytes) -> None:
        """Keeps an image."""
        await self._blobs.put(f"{kept.key}.{kept.extension}", image)
        await self._blobs.put(kept.key + RECORD, codec.encode(kept))

    async def image(self, kept: Kept) -> bytes:
        """The image's file; BlobNotFound once it has expired."""
        return await self._blobs.get(f"{kept.key}.{kept.extension}")

    async def latest(self, model_name: str, now: datetime) -> list[Kept]:
        """The latest records of a model, at most MAX_RECORDS, without those that cannot be read."""
        keys: list[str] = []
        for day in range(int(self._retention / timedelta(days=1)) + 2):
            prefix = _prefix((now - timedelta(days=day)).date(), model_name)
            found = [blob.key async for blob in self._blobs.list(prefix) if blob.key.endswith(RECORD)]
            keys += found[: -(MAX_RECORDS - len(keys)) - 1 : -1]
            if len(keys) == MAX_RECORDS:
                break
        return [kept for kept in await self._records(keys) if kept.time > now - self._retention]

    async def expire(self, now: datetime) -> int:
        """Removes what has expired; returns how many files. Safe in several replicas at once."""
        last, count = now - self._retention, 0
        async for blob in self._blobs.list(ROOT):
            time = _time_of(blob.key)
            if time is None:
                continue
            if time.date() > last.date():
                break
            if time <= last:
                await self._blobs.delete(blob.key)
                count += 1
        return count

    async def _records(self, keys: Sequence[str]) -> list[Kept]:
        places = asyncio.Semaphore(READS_AT_ONCE)

        async def read(key: str) -> Kept | None:
            async with places:
                try:
                    return codec.decode(await self._blobs.get(key), Kept)
                except BlobNotFound:  # it has just expired
                    return None
                except ValueError as error:
                    _log.warning("feedback_unreadable", key=key, problem=str(error))
                    return None

        return [kept for kept in await asyncio.gather(*map(read, keys)) if kept]


def _prefix(day: date, model_name: str) -> str:
    project, local = names.split(model_name)
    return f"{ROOT}{day.isoformat()}/{project}/{local.removeprefix('models/')}/"


def _time_of(key: str) -> datetime | None:
    """When the file of the key was kept; None if the key is not of this form."""
    parts = key.split("/")
    try:
        return datetime.strptime(parts[1] + parts[-1].partition("-")[0], f"%Y-%m-%d{_TIME}").replace(tzinfo=UTC)
    except (ValueError, IndexError):
        return None
