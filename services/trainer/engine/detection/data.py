"""A detection snapshot on the local disk: its images, and their regions as columns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import DatasetAnnotationsInvalid, DatasetEmpty, IncorrectModelKind
from services.trainer.engine.data import Images, Indices, Sample, read_alike, read_indexes
from services.trainer.messages import MANIFEST_FILE
from services.trainer.recipe import BoxStatistics
from services.vision.card import ModelKind
from services.vision.detection_matching import GroundTruth
from services.vision.snapshot import MIN_IMAGES_PER_CATEGORY, AnnotationKind, read_manifest


@dataclass(slots=True)
class Scenes(Images):
    """The images of a detection snapshot, including those without regions."""

    def sizes(self, rows: Indices) -> list[tuple[int, int]]:
        """(width, height) of the upright images."""
        return [(self.samples[row].record.width, self.samples[row].record.height) for row in rows.tolist()]

    def categories_in(self, row: int) -> Indices:
        """The categories of the image's regions without crowds, ascending."""
        found = {box.category for box in self.samples[row].record.boxes if not box.iscrowd}
        return np.array(sorted(found), np.int64)

    def regions(self, row: int) -> tuple[NDArray[np.float32], Indices]:
        """What a network should find: boxes [m, 4] as left, top, right, bottom, and labels [m]; without crowds."""
        kept = [box for box in self.samples[row].record.boxes if not box.iscrowd]
        corners = [(box.x, box.y, box.x + box.w, box.y + box.h) for box in kept]
        labels = np.array([box.category for box in kept], np.int64)
        return np.array(corners, np.float32).reshape(-1, 4), labels

    def truths(self, rows: Indices) -> GroundTruth:
        """All regions of these images, which are numbered from 0."""
        found = [(i, box) for i, row in enumerate(rows.tolist()) for box in self.samples[row].record.boxes]
        return GroundTruth(
            images=np.array([image for image, _ in found], np.int64),
            categories=np.array([box.category for _, box in found], np.int64),
            boxes=np.array([(box.x, box.y, box.w, box.h) for _, box in found], np.float64).reshape(-1, 4),
            crowds=np.array([box.iscrowd for _, box in found], np.bool_),
        )

    def statistics(self) -> BoxStatistics:
        """Statistics of all regions but crowds; every category must have one."""
        sizes: list[list[float]] = [[] for _ in self.categories]
        for sample in self.samples:
            record = sample.record
            for box in record.boxes:
                if not box.iscrowd:
                    sizes[box.category].append((box.w * box.h) ** 0.5 / max(record.width, record.height))
        return BoxStatistics(
            count=sum(map(len, sizes)),
            fewest=min(map(len, sizes)),
            small_size=min(float(np.median(found)) for found in sizes),
            longer_side=int(np.median(self.longer_sides())),
        )

    def image_counts(self) -> Indices:
        """[categories]: the images in which each has a region other than crowds."""
        counts = np.zeros(len(self.categories), np.int64)
        for row in range(len(self.samples)):
            counts[self.categories_in(row)] += 1
        return counts


def open_scenes(directory: Path, dataset: str) -> Scenes:
    """Reads manifest and indexes, but no image.

    Raises IncorrectModelKind for a classification snapshot, DatasetEmpty without images.
    """
    manifest = read_manifest((directory / MANIFEST_FILE).read_bytes())
    if manifest.kind is not AnnotationKind.OBJECT_DETECTION:
        kind = ModelKind.GENERIC_DETECTOR.value
        raise IncorrectModelKind(model_kind=kind, dataset=dataset, annotation_kind=manifest.kind.value)
    samples = [Sample(record, pack, -1) for records, pack in read_indexes(directory, manifest) for record in records]
    if not samples:
        raise DatasetEmpty(dataset=dataset, detail=": it has no images")
    return Scenes(dataset, manifest, tuple(samples), read_alike(directory, manifest))


def require_detectable(scenes: Scenes) -> None:
    """Raises DatasetAnnotationsInvalid unless there is a category, and each has regions in two images."""
    counts = scenes.image_counts()
    few = [name for name, count in zip(scenes.categories, counts, strict=True) if count < MIN_IMAGES_PER_CATEGORY]
    if few or not scenes.categories:
        names = ", ".join(few[:20]) or "-"
        problem = f"needs regions of every category in at least {MIN_IMAGES_PER_CATEGORY} images; too few: {names}"
        raise DatasetAnnotationsInvalid(file=scenes.dataset, problem=problem)
