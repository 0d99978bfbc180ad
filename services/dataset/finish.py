"""Finishes a validation: from checked chunks to the snapshot's manifest, or the reasons why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import structs

from services.dataset import store
from services.dataset.box_rules import at_border
from services.dataset.context import WorkerContext
from services.dataset.convention import Tally
from services.dataset.domain import INLINE_CATEGORIES, CategoryCount, DatasetRecord, Plan, Stats
from services.dataset.duplicates import find_duplicates, fingerprints_of, note_duplicates
from services.dataset.findings import FindingLog
from services.dataset.plan import refusal
from services.dataset.settings import DatasetSettings
from services.kit import names
from services.kit.alike import alike
from services.kit.errors import DatasetAnnotationsInvalid, DatasetEmpty
from services.vision.snapshot import (
    MIN_IMAGES_PER_CATEGORY,
    AnnotationKind,
    Category,
    Manifest,
    Record,
    Shard,
    SnapshotDigest,
    count_categories,
    read_index,
)
from sightline.plurals import counted, listed

IMBALANCE = 20  # a category is rare if the most frequent one has this many times its annotations
FEW_IMAGES = 10  # of a category, with fewer of which hardly anything can be learnt or measured
AT_BORDER = 1 / 3  # share of the boxes
NAMED = 5  # categories listed in a finding


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of a successful validation."""

    manifest: Manifest
    stats: Stats


@dataclass(slots=True)
class _Sums:
    """Totals over the chunks."""

    shards: list[Shard]
    images: int = 0
    refused_images: int = 0
    refused_annotations: int = 0
    byte_count: int = 0
    tally: Tally = field(default_factory=Tally)


async def finish(
    context: WorkerContext, settings: DatasetSettings, record: DatasetRecord, plan: Plan, log: FindingLog
) -> Validation:
    """Adds up the chunks; DatasetEmpty, DatasetAnnotationsInvalid for too many errors, ProjectQuotaExceeded.

    `log` receives the findings of all steps, in the order of the files, then those about the whole dataset.
    """
    planned = await store.get_plan(context.blobs, plan.prefix)
    log.take(planned.findings, planned.more)
    sums = _Sums([], plan.image_count, plan.refused_count, planned.refused_annotations)
    for number in range(plan.chunk_count):
        result = await store.get_result(context.blobs, plan.prefix, number)
        log.take(result.findings, result.more)
        sums.shards += result.shards
        sums.refused_images += result.refused_images
        sums.refused_annotations += result.refused_annotations
        sums.byte_count += result.byte_count
        sums.tally.take(result.tally)
    sums.tally.note(", ".join(record.annotation_file_uris), log)
    if log.fatal:
        raise refusal(log)
    _require_enough(settings, record, planned.annotation_count, sums, log)
    await context.room.require(names.split(record.name)[0], sum(shard.size_bytes for shard in sums.shards))
    manifest, counts = await _manifest(context, record, planned.categories, sums.shards)
    manifest = await _find_duplicates(context, record, manifest, log)
    _find_alike(manifest, log)
    _find_imbalance(manifest, log)
    if counts.without_boxes:
        log.add("imagesWithoutBoxes", count=counts.without_boxes)
    if counts.crowds:
        log.add("crowdBoxes", count=counts.crowds)
    if counts.at_border > AT_BORDER * counts.boxes and counts.at_border >= FEW_IMAGES:
        log.add("boxesAtBorder", count=counts.at_border, total=counts.boxes)
    return Validation(manifest, _stats(manifest, sums.byte_count))


def _require_enough(
    settings: DatasetSettings, record: DatasetRecord, annotations: int, sums: _Sums, log: FindingLog
) -> None:
    usable = sums.images - sums.refused_images
    worst = log.ordered()[:1]
    example = f", for example {worst[0].file}: {worst[0].message}" if worst else ""
    if usable == 0:
        refused = f"{counted(sums.images, 'image was', 'images were')} refused{example}"
        detail = f"; {refused if sums.images else 'the annotation files list none'}"
        if sums.images and not annotations:
            detail = "; the annotation files have no annotations"
        raise DatasetEmpty(dataset=record.name, detail=detail.removesuffix("."))
    for bad, total, what in (
        (sums.refused_images, sums.images, "image"),
        (sums.refused_annotations, annotations, "annotation"),
    ):
        if bad > settings.max_bad_share * total:
            allowed = f"{settings.max_bad_share:.0%}"
            problem = (
                f"{bad} of {counted(total, what)} cannot be used, more than the allowed {allowed}"
                f"{example} See ListFindings."
            )
            raise DatasetAnnotationsInvalid(file=record.name, problem=problem)


@dataclass(slots=True)
class _Counted:
    """What the records add up to."""

    images: int = 0
    without_boxes: int = 0
    boxes: int = 0  # without crowds
    at_border: int = 0
    crowds: int = 0

    def add(self, records: Sequence[Record]) -> None:
        self.images += len(records)
        for one in records:
            self.without_boxes += not one.labels and not one.boxes
            crowds = sum(box.iscrowd for box in one.boxes)
            self.crowds += crowds
            self.boxes += len(one.boxes) - crowds
            self.at_border += sum(at_border(box, one.width, one.height) for box in one.boxes)


async def _manifest(
    context: WorkerContext, record: DatasetRecord, names: list[tuple[int, str]], shards: list[Shard]
) -> tuple[Manifest, _Counted]:
    """The manifest without groups of near-duplicates, and what its records add up to."""
    declared = [Category(id=id_, name=name, image_count=0, annotation_count=0) for id_, name in names]
    digest, counted = SnapshotDigest(record.annotation_kind, declared), _Counted()
    images, annotations = [0] * len(names), [0] * len(names)
    for shard in shards:
        index = read_index(await context.blobs.get(shard.index_key))
        digest.add(index.records)
        counted.add(index.records)
        for number, found in enumerate(count_categories(names, [index])):
            images[number] += found.image_count
            annotations[number] += found.annotation_count
    categories = tuple(
        Category(id=id_, name=name, image_count=images[i], annotation_count=annotations[i])
        for i, (id_, name) in enumerate(names)
    )
    manifest = Manifest(
        kind=record.annotation_kind,
        categories=categories,
        shards=tuple(shards),
        image_count=counted.images,
        digest=digest.hexdigest(),
    )
    return manifest, counted


async def _find_duplicates(
    context: WorkerContext, record: DatasetRecord, manifest: Manifest, log: FindingLog
) -> Manifest:
    """Adds findings for images that repeat others; the manifest with their groups."""
    shards, names = list(manifest.shards), [category.name for category in manifest.categories]
    fingerprints = await fingerprints_of(context.blobs, shards)
    found = await context.compute(lambda: find_duplicates(fingerprints))
    groups = found.groups
    if not groups.groups:
        return manifest
    await note_duplicates(context.blobs, shards, found, names, log)
    return structs.replace(manifest, groups_key=await store.put_groups(context.blobs, record, groups))


def _find_alike(manifest: Manifest, log: FindingLog) -> None:
    for group in alike(category.name for category in manifest.categories):
        log.add("categoriesAlike", names=", ".join(repr(name) for name in group))


def _find_imbalance(manifest: Manifest, log: FindingLog) -> None:
    for category in manifest.categories:
        if category.image_count == 0:
            log.add("categoryWithoutImages", category=category.name)
        elif category.image_count < MIN_IMAGES_PER_CATEGORY:
            count, minimum = category.image_count, MIN_IMAGES_PER_CATEGORY
            log.add("categoryTooFewImages", category=category.name, count=count, minimum=minimum)
    minimum = AnnotationKind(manifest.kind).min_categories
    used = sum(category.image_count > 0 for category in manifest.categories)
    if used < minimum:
        log.add("tooFewCategories", count=used, minimum=minimum)
    most = max(manifest.categories, key=lambda category: category.annotation_count)
    rare = [one.name for one in manifest.categories if 0 < one.annotation_count * IMBALANCE < most.annotation_count]
    if rare:
        most_often, names = most.annotation_count, listed(rare, NAMED)
        log.add("categoriesImbalanced", category=most.name, most=most_often, count=len(rare), names=names)
    few = [one.name for one in manifest.categories if MIN_IMAGES_PER_CATEGORY <= one.image_count < FEW_IMAGES]
    if few:
        log.add("categoriesSmall", count=len(few), minimum=FEW_IMAGES, names=listed(few, NAMED))


def _stats(manifest: Manifest, byte_count: int) -> Stats:
    listed = manifest.categories if len(manifest.categories) <= INLINE_CATEGORIES else ()
    return Stats(
        image_count=manifest.image_count,
        annotation_count=sum(category.annotation_count for category in manifest.categories),
        category_count=len(manifest.categories),
        byte_count=byte_count,
        stored_bytes=sum(shard.size_bytes for shard in manifest.shards),
        categories=category_counts(listed),
    )


def category_counts(categories: tuple[Category, ...]) -> tuple[CategoryCount, ...]:
    """The manifest's categories as counts for records and responses."""
    return tuple(CategoryCount(c.name, c.image_count, c.annotation_count) for c in categories)
