"""The numbers that the dataset service keeps to, apart from where they are configured."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from services.vision.snapshot import AnnotationKind


@dataclass(frozen=True, slots=True)
class Limits:
    """Quotas and the division of work; the defaults and the meaning of each stand in `settings`."""

    max_coco_bytes: int = 1 << 30
    max_image_bytes: int = 20 << 20
    max_classification_images: int = 1_000_000
    max_detection_images: int = 200_000
    max_classification_categories: int = 2_500
    max_detection_categories: int = 1_000
    max_regions: int = 1_000
    max_bad_share: float = 0.2
    max_upload_files: int = 10_000
    findings_per_code: int = 1_000
    chunk_images: int = 1_000
    images_in_flight: int = 16
    lease_seconds: float = 20.0
    progress_seconds: float = 1.0
    stall_seconds: float = 20.0
    scratch_directory: Path | None = None

    @property
    def lease(self) -> timedelta:
        """How long a worker that does not answer keeps a dataset."""
        return timedelta(seconds=self.lease_seconds)

    def max_images(self, kind: AnnotationKind) -> tuple[int, str]:
        """How many images a dataset may have, and the setting that says so."""
        if kind is AnnotationKind.IMAGE_CLASSIFICATION:
            return self.max_classification_images, "SIGHTLINE_MAX_CLASSIFICATION_IMAGES"
        return self.max_detection_images, "SIGHTLINE_MAX_DETECTION_IMAGES"

    def max_categories(self, kind: AnnotationKind) -> int:
        """How many categories a dataset may declare."""
        if kind is AnnotationKind.IMAGE_CLASSIFICATION:
            return self.max_classification_categories
        return self.max_detection_categories

    @staticmethod
    def min_categories(kind: AnnotationKind) -> int:
        """How many categories training needs."""
        return 2 if kind is AnnotationKind.IMAGE_CLASSIFICATION else 1
