"""Chooses some images of a snapshot to be looked at, and reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.dataset.duplicates import records_of
from services.kit.blobs import Blobs
from services.kit.errors import InvalidRequest
from services.vision.snapshot import Manifest, Record, Shard

MAX_PER_CATEGORY = 20
MAX_CATEGORIES = 100
MAX_IDS = 200
SIZES = 2000
PAGE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """An image with its bytes, which are empty if there are more than PAGE_BYTES."""

    record: Record
    image: bytes


@dataclass(frozen=True, slots=True)
class Samples:
    """A page of samples; `next_start` is 0 after the last."""

    samples: tuple[Sample, ...]
    next_start: int
    sizes: tuple[tuple[int, int], ...]
    categories: tuple[str, ...]


async def read_samples(
    blobs: Blobs, manifest: Manifest, per_category: int, ids: Sequence[int], start: int, page_size: int
) -> Samples:
    """The samples from place `start` on, by image id; InvalidRequest for too many."""
    if not 0 <= per_category <= MAX_PER_CATEGORY:
        problem = f"{per_category} is not within 0 and {MAX_PER_CATEGORY}."
        raise InvalidRequest(field="per_category", problem=problem)
    if len(ids) > MAX_IDS:
        raise InvalidRequest(field="image_ids", problem=f"{len(ids)} ids are more than {MAX_IDS}.")
    chosen, sizes = await _choose(blobs, manifest, per_category, frozenset(ids))
    samples, size_bytes = list[Sample](), 0
    for record, shard in chosen[start : start + page_size]:
        wanted = record.size if record.size <= PAGE_BYTES else 0
        if samples and size_bytes + wanted > PAGE_BYTES:
            break
        samples.append(Sample(record, await blobs.get(shard.key, record.offset, wanted) if wanted else b""))
        size_bytes += wanted
    end = start + len(samples)
    names = tuple(category.name for category in manifest.categories)
    return Samples(tuple(samples), end if end < len(chosen) else 0, sizes, names)


Found = tuple[Record, Shard]


async def _choose(
    blobs: Blobs, manifest: Manifest, per_category: int, ids: frozenset[int]
) -> tuple[list[Found], tuple[tuple[int, int], ...]]:
    """The samples by image id, of each category those with the smallest digests, and sizes of images."""
    picked, shown = dict[int, Found](), dict[int, list[Found]]()
    sizes, step, place = list[tuple[int, int]](), max(1, -(-manifest.image_count // SIZES)), 0
    for shard in manifest.shards:
        async for record in records_of(blobs, [shard]):
            if place % step == 0:
                sizes.append((record.width, record.height))
            place += 1
            if record.image_id in ids:
                picked[record.image_id] = record, shard
            for category in {*record.labels, *(box.category for box in record.boxes)}:
                if category < MAX_CATEGORIES and per_category:
                    shown[category] = _least([*shown.get(category, []), (record, shard)], per_category)
    for found in shown.values():
        picked |= {record.image_id: (record, shard) for record, shard in found}
    return [picked[image_id] for image_id in sorted(picked)], tuple(sizes)


def _least(found: list[Found], count: int) -> list[Found]:
    return found if len(found) <= count else sorted(found, key=lambda one: one[0].sha256)[:count]
