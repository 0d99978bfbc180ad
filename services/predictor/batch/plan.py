"""Lists the images of a batch prediction, and splits them into chunks of work."""

from collections.abc import AsyncIterator
from pathlib import Path

from services.kit.blobs import Blobs, from_uri, to_uri
from services.kit.errors import BlobNotFound, DatasetChanged, InvalidRequest, ModelNotFound, QuotaExceeded
from services.predictor.batch import blobs as stored
from services.predictor.batch.blobs import Category, PlanBlob, Row
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.domain import MAX_CHUNKS, BatchRecord, Plan, Source
from services.predictor.domain import Bundle
from services.vision.card import CARD_FILE, ModelCard, read_card
from services.vision.snapshot import Manifest, read_index, read_manifest
from sightline.importers.model import is_image

Refused = (InvalidRequest, QuotaExceeded, DatasetChanged, ModelNotFound)


async def make_plan(context: WorkerContext, record: BatchRecord) -> Plan:
    """Writes the chunks' inputs, with one chunk in memory at a time.

    Raises one of `Refused` if there is nothing to predict, or too much, or the model or the dataset is gone.
    """
    prefix, size, blobs = stored.plan_prefix(record), context.settings.batch_chunk_images, context.blobs
    manifest = await _manifest(blobs, record.source) if record.source.dataset else None
    card = await _card(blobs, record.bundle)
    await stored.put_plan(blobs, prefix, PlanBlob(card.kind, categories_of(card, manifest)))
    rows = _of_dataset(blobs, record.source, manifest) if manifest else _below(blobs, record.source.prefix)
    pending, count = list[Row](), 0
    async for row in rows:
        pending.append(row)
        count += 1
        _require_few(context, record, count)
        if len(pending) == size:
            await stored.put_rows(blobs, prefix, count // size - 1, pending)
            pending = []
    if pending:
        await stored.put_rows(blobs, prefix, count // size, pending)
    if not count:
        raise nothing_below(to_uri(blobs.bucket, record.source.prefix))
    return Plan(prefix, size, count)


def nothing_below(uri: str) -> InvalidRequest:
    """The error of a prefix without images."""
    problem = f"there is no image below {uri}, which is an object whose name ends in .jpg, .png or the like."
    return InvalidRequest(field="batch_prediction.input_uri_prefix", problem=problem)


async def count_images(blobs: Blobs, prefix: str, enough: int) -> int:
    """The number of images below the prefix; counts no further than `enough`."""
    count = 0
    async for _ in _below(blobs, prefix):
        count += 1
        if count >= enough:
            break
    return count


def categories_of(card: ModelCard, manifest: Manifest | None) -> tuple[Category, ...]:
    """The model's categories, with the ids of a dataset's categories of the same names.

    A category that the dataset lacks gets an id that none of the dataset's has.
    """
    if manifest is None:
        return tuple(Category(category.id, category.name) for category in card.categories)
    ids = {category.name: category.id for category in manifest.categories}
    unused = max(ids.values(), default=0) + 1
    categories = list[Category]()
    for category in card.categories:
        id_ = ids.get(category.name, unused)
        unused += category.name not in ids
        categories.append(Category(id_, category.name))
    return tuple(categories)


async def _card(blobs: Blobs, bundle: Bundle) -> ModelCard:
    try:
        return read_card(await blobs.get(from_uri(bundle.uri.rstrip("/"), blobs.bucket) + f"/{CARD_FILE}"))
    except BlobNotFound:
        raise ModelNotFound(name=bundle.model_name) from None


async def _manifest(blobs: Blobs, source: Source) -> Manifest:
    try:
        return read_manifest(await blobs.get(source.manifest_key))
    except BlobNotFound:
        raise DatasetChanged(dataset=source.dataset, file=to_uri(blobs.bucket, source.manifest_key)) from None


async def _below(blobs: Blobs, prefix: str) -> AsyncIterator[Row]:
    """The images below a prefix, numbered from 1 in the order of their keys."""
    number = 0
    async for blob in blobs.list(prefix):
        file_name = blob.key.removeprefix(prefix)
        if is_image(Path(file_name)):
            number += 1
            yield Row(number, file_name, blob.key, size_bytes=blob.size_bytes)


async def _of_dataset(blobs: Blobs, source: Source, manifest: Manifest) -> AsyncIterator[Row]:
    for shard in manifest.shards:
        try:
            records = read_index(await blobs.get(shard.index_key)).records
        except BlobNotFound:
            raise DatasetChanged(dataset=source.dataset, file=to_uri(blobs.bucket, shard.index_key)) from None
        for one in records:
            yield Row(one.image_id, one.file_name, shard.key, one.offset, one.size, one.sha256)


def _require_few(context: WorkerContext, record: BatchRecord, count: int) -> None:
    limit = min(context.settings.max_batch_images, MAX_CHUNKS * context.settings.batch_chunk_images)
    if count > limit:
        raise QuotaExceeded(
            subject=f"images of {record.name}",
            value=f"more than {limit}",
            limit=limit,
            setting="SIGHTLINE_MAX_BATCH_IMAGES",
        )
