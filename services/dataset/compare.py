"""Compares two snapshots, of a training and a test dataset: shared images, categories, shares and sizes."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from services.dataset.domain import DatasetRecord
from services.dataset.duplicates import Digests, Fingerprints, records_of
from services.dataset.findings import Finding, FindingLog
from services.kit.alike import folded
from services.kit.blobs import Blobs
from services.vision.near_duplicates import Indices, closest
from services.vision.snapshot import AnnotationKind, Category, Manifest

KEPT = 4  # comparisons
LISTED = 1000  # findings of a code
SHIFT = 2.0  # shares of a category that differ by this factor, and by more than chance explains
CHANCE = 4.0  # standard errors of the difference of two shares
SIZES = 2.0  # ratio of the median longer sides
_KIND = {AnnotationKind.IMAGE_CLASSIFICATION: "classification", AnnotationKind.OBJECT_DETECTION: "detection"}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two datasets."""

    record: DatasetRecord
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of upright images, in pixels."""

    median_width: int
    median_height: int
    smallest_side: int
    largest_side: int

    def __str__(self) -> str:
        return f"{self.median_width} x {self.median_height}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A test image, and the training image that it repeats."""

    training_file: str
    training_id: int
    test_file: str
    test_id: int
    distance: int  # bits
    exact: bool


@dataclass(frozen=True, slots=True)
class Matched:
    """A category in both datasets; None where it is missing."""

    training: Category | None
    test: Category | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs, and all that should but does not."""

    pairs: tuple[Pair, ...]  # exact ones first, then by distance
    categories: tuple[Matched, ...]
    training_sizes: Sizes
    test_sizes: Sizes
    findings: tuple[Finding, ...]  # worst first

    @property
    def exact_count(self) -> int:
        """Test images that are equal to a training image."""
        return sum(pair.exact for pair in self.pairs)


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    """Some of the pairs of a comparison."""

    whole: Comparison
    pairs: tuple[Pair, ...]
    is_first: bool
    next_token: str


@dataclass(slots=True, eq=False)
class _Work:
    """A comparison, perhaps not finished."""

    task: "asyncio.Task[Comparison]" = field(init=False)
    waiting: int = 0  # callers
    begun: bool = False


class Comparisons:
    """The latest comparisons, so that their pages are not computed again; snapshots never change.

    One is computed at a time, to its end; another that nobody waits for any more is not begun.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._turn = asyncio.Lock()
        self._latest: dict[tuple[str, str], _Work] = {}

    async def of(self, training: Side, test: Side) -> Comparison:
        """The comparison; callers who want the same at once share the work."""
        key = training.record.manifest_key, test.record.manifest_key
        work = self._latest.pop(key, None)
        if work is None or (work.task.done() and (work.task.cancelled() or work.task.exception())):
            work = _Work()
            work.task = asyncio.create_task(self._compare(work, training, test), name="compare datasets")
        self._latest[key] = work
        for old in [one for one, other in self._latest.items() if other.task.done()][:-KEPT]:
            del self._latest[old]
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting -= 1
            if not work.waiting and not work.begun:
                work.task.cancel()
                self._latest.pop(key, None)

    async def _compare(self, work: _Work, training: Side, test: Side) -> Comparison:
        async with self._turn:
            work.begun = True
            return await compare(self._blobs, training, test)


@dataclass(frozen=True, slots=True)
class _Read:
    looks: Fingerprints
    sizes: Sizes


async def compare(blobs: Blobs, training: Side, test: Side) -> Comparison:
    """The comparison; the same snapshots give the same."""
    here, there = await _read(blobs, training.manifest), await _read(blobs, test.manifest)
    complete = here.looks.complete and there.looks.complete
    matches = await asyncio.to_thread(shared, here.looks, there.looks, similar=complete)
    pairs = await _named(blobs, training.manifest, test.manifest, matches)
    categories = matched(training.manifest.categories, test.manifest.categories)
    log = FindingLog(LISTED)
    exact = sum(pair.exact for pair in pairs)
    if pairs:
        log.add("testImagesInTraining", count=len(pairs), exact=exact, near=len(pairs) - exact)
    for side, read in ((training, here), (test, there)):
        if not read.looks.complete:
            log.add("fingerprintsMissing", dataset=side.record.name)
    if training.manifest.kind is not test.manifest.kind:
        log.add("annotationKindsDiffer", training=_KIND[training.manifest.kind], test=_KIND[test.manifest.kind])
    _note_categories(categories, log)
    _note_shifts(categories, log)
    longer = [max(sizes.median_width, sizes.median_height) for sizes in (here.sizes, there.sizes)]
    if max(longer) >= SIZES * min(longer):
        log.add("sizesDiffer", training=here.sizes, test=there.sizes)
    return Comparison(pairs, categories, here.sizes, there.sizes, tuple(log.ordered()))


async def _read(blobs: Blobs, manifest: Manifest) -> _Read:
    looks, widths, heights = Fingerprints(), list[int](), list[int]()
    async for record in records_of(blobs, manifest.shards):
        looks.add(record)
        widths.append(record.width)
        heights.append(record.height)
    sides = np.array([widths, heights])
    across, down = (int(value) for value in np.median(sides, axis=1))
    return _Read(looks, Sizes(across, down, int(sides.min()), int(sides.max())))


def shared(training: Fingerprints, test: Fingerprints, *, similar: bool) -> list[tuple[int, int, int, bool]]:
    """(training image, test image, bits, whether they are equal) as indices, ordered as a comparison's pairs."""
    equal = _first_equal(training.files, test.files)
    found = {image: (first, 0, True) for image, first in enumerate(equal.tolist()) if first >= 0}
    if similar:
        by_pixels = _first_equal(training.pixels, test.pixels)
        found |= {image: (first, 0, True) for image, first in enumerate(by_pixels.tolist()) if first >= 0}
        hashed = np.array([image for image in test.hashed.tolist() if image not in found], np.int64)
        nearest, bits = closest(test.hashes[hashed], training.hashes[training.hashed])
        for image, near, distance in zip(hashed.tolist(), nearest.tolist(), bits.tolist(), strict=True):
            if near >= 0:
                found[image] = int(training.hashed[near]), distance, False
    rows = [(first, image, distance, exact) for image, (first, distance, exact) in found.items()]
    return sorted(rows, key=lambda row: (not row[3], row[2], row[1]))


def _first_equal(among: Digests, wanted: Digests) -> Indices:
    """For each of `wanted`, the first that is equal `among` the others; -1 if none is."""
    distinct, first = np.unique(among, return_index=True)
    place = np.minimum(np.searchsorted(distinct, wanted), max(len(distinct) - 1, 0))
    return np.where(distinct[place] == wanted, first[place], -1) if len(distinct) else np.full(len(wanted), -1)


async def _named(
    blobs: Blobs, training: Manifest, test: Manifest, matches: Sequence[tuple[int, int, int, bool]]
) -> tuple[Pair, ...]:
    names = [
        await _names(blobs, manifest, {match[side] for match in matches})
        for side, manifest in enumerate((training, test))
    ]
    return tuple(
        Pair(*names[0][one], *names[1][other], distance=distance, exact=exact)
        for one, other, distance, exact in matches
    )


async def _names(blobs: Blobs, manifest: Manifest, wanted: set[int]) -> dict[int, tuple[str, int]]:
    """File name and image id, by index."""
    found, index = dict[int, tuple[str, int]](), 0
    if wanted:
        async for record in records_of(blobs, manifest.shards):
            if index in wanted:
                found[index] = record.file_name, record.image_id
            index += 1
    return found


def matched(training: Sequence[Category], test: Sequence[Category]) -> tuple[Matched, ...]:
    """The categories that have images, by their names; if those differ, by what they are without case and spaces."""
    left = {category.name: category for category in test if category.image_count}
    ours = [category for category in training if category.image_count]
    pairs = {category.name: left.pop(category.name, None) for category in ours}
    by_folded = {folded(name): name for name in left}
    for category in ours:
        if pairs[category.name] is None and (name := by_folded.pop(folded(category.name), "")):
            pairs[category.name] = left.pop(name)
    return *(Matched(one, pairs[one.name]) for one in ours), *(Matched(None, one) for one in left.values())


def _note_categories(categories: Sequence[Matched], log: FindingLog) -> None:
    for one in categories:
        if one.training and one.test and one.training.name != one.test.name:
            log.add("categoriesSpeltDifferently", training=one.training.name, test=one.test.name)
        elif one.training and not one.test:
            log.add("categoryOnlyInTraining", names=repr(one.training.name))
        elif one.test and not one.training:
            log.add("categoryOnlyInTest", names=repr(one.test.name))


def _note_shifts(categories: Sequence[Matched], log: FindingLog) -> None:
    """Notes the shares of annotations that differ by SHIFT, and by more than chance explains."""
    both = [(one.training, one.test) for one in categories if one.training and one.test]
    totals = [sum(pair[side].annotation_count for pair in both) for side in (0, 1)]
    for here, there in both:
        shares = [category.annotation_count / total for category, total in zip((here, there), totals, strict=True)]
        pooled = (here.annotation_count + there.annotation_count) / sum(totals)
        error = math.sqrt(pooled * (1 - pooled) * sum(1 / total for total in totals))
        if max(shares) >= SHIFT * min(shares) and abs(shares[0] - shares[1]) > CHANCE * error:
            log.add("labelShift", category=here.name, training=shares[0], test=shares[1])
