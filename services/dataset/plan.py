"""Reads a dataset's annotation files and splits its images into chunks of work."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.dataset import coco, store, units
from services.dataset.categories import Categories
from services.dataset.coco import Place
from services.dataset.columns import Columns
from services.dataset.context import WorkerContext
from services.dataset.convention import check_reading
from services.dataset.cutting import cut
from services.dataset.domain import BoxConvention, DatasetRecord, Plan
from services.dataset.findings import FindingLog
from services.dataset.ids import check_ids, used_categories
from services.dataset.reading import read
from services.dataset.rows import Rows
from services.dataset.settings import DatasetSettings
from services.kit.blobs import from_uri
from services.kit.errors import BlobNotFound, DatasetAnnotationsInvalid, QuotaExceeded
from services.kit.names import split
from services.vision.snapshot import AnnotationKind

DECLARED = 10  # categories in a file for each that a dataset may have: many may be unused


@dataclass(slots=True)
class Reading:
    """What the files read so far contain."""

    log: FindingLog
    categories: Categories = field(default_factory=Categories)
    convention: BoxConvention = BoxConvention.UNKNOWN
    last_id: int = -1  # the largest id in the snapshot so far
    images: int = 0
    annotations: int = 0
    chunk_count: int = 0
    planned: int = 0  # images that are in a chunk
    chunk: list[Rows] = field(default_factory=list[Rows])  # which is not full
    full: list[list[Rows]] = field(default_factory=list[list[Rows]])  # chunks that are not stored yet

    def room(self, size: int) -> int:
        """How many more images the last chunk takes, if chunks have this size."""
        return size - sum(map(len, self.chunk))


async def make_plan(context: WorkerContext, settings: DatasetSettings, record: DatasetRecord, reading: Reading) -> Plan:
    """Writes the chunks' inputs, with one file in memory at a time; image ids in the snapshot ascend over all files.

    Raises DatasetAnnotationsInvalid if a file is unusable, and QuotaExceeded for too many images or annotations; in
    both cases `reading.log` has the findings so far.
    """
    prefix = store.plan_prefix(record)
    bucket = context.blobs.bucket
    for uri in record.annotation_file_uris:
        place = Place(uri, from_uri(uri, bucket), bucket, split(record.name)[0], settings.reach)
        with tempfile.TemporaryDirectory(prefix="sightline-coco-", dir=settings.scratch_directory) as folder:
            path = Path(folder) / "annotations.json"
            await _fetch(context, settings, place, path, reading.log)
            pieces = await context.compute(lambda path=path, place=place: _read(path, place, record, settings, reading))
        for rows in pieces:
            reading.chunk.append(rows)
            if not reading.room(settings.chunk_images):
                await _end_chunk(context, prefix, reading)
    if reading.chunk:
        await _end_chunk(context, prefix, reading)
    if reading.full:
        await store.put_rows(context.blobs, prefix, reading.chunk_count, reading.full)
    log = reading.log
    annotations = reading.annotations + log.count("annotationValueInvalid")  # which are left out of what was read
    blob = store.PlanBlob(reading.categories.names, log.kept, log.more, annotations, log.refused_annotations)
    await store.put(context.blobs, store.plan_key(prefix), blob)
    return Plan(prefix, reading.chunk_count, reading.images, reading.images - reading.planned)


async def _fetch(context: WorkerContext, settings: DatasetSettings, place: Place, path: Path, log: FindingLog) -> None:
    try:
        size = (await context.blobs.stat(place.key)).size_bytes
        if size <= settings.max_coco_bytes:
            return await context.blobs.get_file(place.key, path)
        log.add("annotationFileTooLarge", place.uri, size_bytes=size, limit=settings.max_coco_bytes)
    except BlobNotFound:
        log.add("annotationFileMissing", place.uri)
    raise refusal(log)


def _read(
    path: Path, place: Place, record: DatasetRecord, settings: DatasetSettings, reading: Reading
) -> Iterator[Rows]:
    """Checks one file; returns its rows lazily. Raises as `make_plan` does."""
    log, kind = reading.log, record.annotation_kind
    _require_parsable(path, place, kind, settings)
    file = read(path, place.uri, log, boxes=kind is AnnotationKind.OBJECT_DETECTION)
    if file is None:
        raise refusal(log)
    _count(file, place, record, settings, reading)
    categories = reading.categories.merge(file.categories, place.uri, log, used_categories(file))
    _require_categories(len(reading.categories.names), place, record, settings, log)
    if file.names and not len(file.image_ids):
        log.add("annotationsMissing", place.uri)
    links = check_ids(file, place.uri, categories, log)
    if kind is AnnotationKind.OBJECT_DETECTION:
        reading.convention = units.check_convention(file, place.uri, reading.convention, log)
        check_reading(file, place.uri, reading.convention, log)
    if log.fatal:
        raise refusal(log)
    sizes = reading.room(settings.chunk_images), settings.chunk_images
    return cut(file, place, links, _shift(file, place, reading), sizes, log)


def _require_parsable(path: Path, place: Place, kind: AnnotationKind, settings: DatasetSettings) -> None:
    """QuotaExceeded for more JSON objects than any file within the limits has, as each takes memory once parsed."""
    entries = settings.max_annotations + settings.max_images(kind)[0] + settings.max_categories(kind)[0]
    count, limit = coco.objects_at_most(path), coco.OBJECTS_PER_ENTRY * entries
    if count > limit:
        raise QuotaExceeded(
            subject=f"JSON objects in {place.uri}", value=count, limit=limit, setting="SIGHTLINE_MAX_ANNOTATIONS"
        )


def _count(file: Columns, place: Place, record: DatasetRecord, settings: DatasetSettings, reading: Reading) -> None:
    """Adds up the entries before any work on them; raises as `make_plan` does if there are too many."""
    kind = record.annotation_kind
    reading.images += len(file.names)
    reading.annotations += len(file.image_ids)
    _require_categories(len(file.categories), place, record, settings, reading.log, DECLARED)
    for what, count, (limit, setting) in (
        ("images", reading.images, settings.max_images(kind)),
        ("annotations", reading.annotations, (settings.max_annotations, "SIGHTLINE_MAX_ANNOTATIONS")),
    ):
        if count > limit:
            raise QuotaExceeded(subject=f"{what} of {record.name}", value=count, limit=limit, setting=setting)


def _require_categories(
    count: int, place: Place, record: DatasetRecord, settings: DatasetSettings, log: FindingLog, times: int = 1
) -> None:
    """A fatal finding, and the refusal that quotes it, if there are more than `times` what a dataset may have."""
    kind = record.annotation_kind
    limit, setting = settings.max_categories(kind)
    if count > times * limit:
        log.add("tooManyCategories", place.uri, count=count, limit=times * limit, kind=kind, setting=setting)
        raise refusal(log)


def _shift(file: Columns, place: Place, reading: Reading) -> int:
    """What to add to a file's image ids so that they are larger than those of earlier files."""
    if not file.names:
        return 0
    first, last = int(file.ids.min()), int(file.ids.max())
    shift = 0 if first > reading.last_id else reading.last_id + 1 - first
    if shift:
        reading.log.add("imageIdsShifted", place.uri, shift=shift)
    reading.last_id = last + shift
    return shift


async def _end_chunk(context: WorkerContext, prefix: str, reading: Reading) -> None:
    reading.full.append(reading.chunk)
    reading.planned += sum(map(len, reading.chunk))
    reading.chunk_count += 1
    reading.chunk = []
    if len(reading.full) == store.CHUNKS:
        await store.put_rows(context.blobs, prefix, reading.chunk_count, reading.full)
        reading.full = []


def refusal(log: FindingLog) -> DatasetAnnotationsInvalid:
    """The error of a dataset whose annotation files are unusable; it quotes the first fatal finding in full."""
    found = log.fatal
    assert found is not None
    where = "" if found.annotation_id is None else f" (annotation {found.annotation_id})"
    return DatasetAnnotationsInvalid(file=found.file, problem=f"{found.message} {found.remedy}{where}")
