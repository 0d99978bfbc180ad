"""A batch prediction's blobs: what they contain, and their keys."""

import hashlib

import msgspec

from services.kit import codec
from services.kit.blobs import Blobs
from services.predictor.batch.domain import BatchRecord
from services.vision.card import ModelKind

WHOLE = -1  # the offset of an image that is a blob of its own

_encoder = msgspec.json.Encoder(order="deterministic")


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One image to predict."""

    image_id: int
    file_name: str  # relative to the prefix, or as in the dataset
    key: str  # of the image, or of the shard that has it
    offset: int = WHOLE
    size_bytes: int = 0
    sha256: str = ""  # of an image in a shard


class Category(msgspec.Struct, frozen=True, array_like=True):
    """A category in the order of the model's outputs, with the id that results name it by."""

    id: int
    name: str


class PlanBlob(msgspec.Struct, frozen=True):
    """What the results are of."""

    kind: ModelKind
    categories: tuple[Category, ...]


class Found(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One result for an image: a category, and a detector's box."""

    label: int  # index into the plan's categories
    score: float
    box: tuple[float, float, float, float] | None = None  # left, top, width, height in pixels of the upright image


class ImageResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one image: its size and results, or why there are none."""

    image_id: int
    file_name: str
    uri: str = ""  # of an image that is a blob of its own
    width: int = 0
    height: int = 0
    found: tuple[Found, ...] = ()
    reason: str = ""  # of the failure; empty if there is none
    message: str = ""


def plan_prefix(record: BatchRecord) -> str:
    """The prefix of one attempt at listing the images; the epoch distinguishes attempts."""
    return f"{work_prefix(record)}plan-{record.lease.epoch}/"


def work_prefix(record: BatchRecord) -> str:
    """The prefix of all that is no longer needed once the results are written."""
    return f"{record.prefix}work/"


def rows_key(prefix: str, number: int) -> str:
    """A chunk's input."""
    return f"{prefix}rows/{number:05d}.json"


def result_key(record: BatchRecord, number: int, digest: str) -> str:
    """A chunk's result, named by content, so that attempts at one chunk never interfere."""
    return f"{work_prefix(record)}results/{number:05d}-{digest}.json"


async def put_plan(blobs: Blobs, prefix: str, plan: PlanBlob) -> None:
    """Stores what the results are of."""
    await blobs.put(f"{prefix}plan.json", _encoder.encode(plan))


async def get_plan(blobs: Blobs, prefix: str) -> PlanBlob:
    """What the results are of."""
    return codec.parse(await blobs.get(f"{prefix}plan.json"), PlanBlob)


async def put_rows(blobs: Blobs, prefix: str, number: int, rows: list[Row]) -> None:
    """Stores a chunk's input."""
    await blobs.put(rows_key(prefix, number), _encoder.encode(rows))


async def get_rows(blobs: Blobs, prefix: str, number: int) -> list[Row]:
    """A chunk's input."""
    return codec.parse(await blobs.get(rows_key(prefix, number)), list[Row])


async def put_results(blobs: Blobs, record: BatchRecord, number: int, results: list[ImageResult]) -> str:
    """Stores a chunk's result; returns its digest."""
    data = _encoder.encode(results)
    digest = hashlib.sha256(data).hexdigest()[:16]
    await blobs.put(result_key(record, number, digest), data)
    return digest


async def get_results(blobs: Blobs, record: BatchRecord, number: int) -> list[ImageResult]:
    """The result of a finished chunk."""
    key = result_key(record, number, record.results[number])
    return codec.parse(await blobs.get(key), list[ImageResult])
