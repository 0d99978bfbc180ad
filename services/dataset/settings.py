"""The dataset service's settings; see `services.kit.settings` for the common ones."""

import os
from datetime import timedelta
from pathlib import Path

from pydantic import Field

from services.kit.settings import Settings
from services.vision.snapshot import AnnotationKind


class DatasetSettings(Settings):
    """Quotas and the division of work; every field is `SIGHTLINE_<FIELD>`."""

    max_coco_bytes: int = Field(default=1 << 30, gt=0)
    max_image_bytes: int = Field(default=20 << 20, gt=0)
    max_classification_images: int = Field(default=1_000_000, gt=0)
    max_detection_images: int = Field(default=200_000, gt=0)
    max_classification_categories: int = Field(default=2_500, gt=0)
    max_detection_categories: int = Field(default=1_000, gt=0)
    max_regions: int = Field(default=1_000, gt=0)  # boxes in one image
    max_bad_share: float = Field(default=0.2, ge=0, le=1)  # of images or annotations; beyond it a dataset is FAILED
    max_upload_files: int = Field(default=10_000, gt=0)  # in one stream; more go by further streams of the same upload
    findings_per_code: int = Field(default=1_000, gt=0)  # listed; more are counted
    chunk_images: int = Field(default=1_000, gt=0, le=100_000)  # checked by one job
    images_in_flight: int = Field(default=16, gt=0)  # read at once by a worker; each holds at most max_image_bytes
    ingest_threads: int = Field(default_factory=lambda: os.cpu_count() or 1, gt=0)  # decoding at once in a worker
    ingest_jobs: int = Field(default=2, gt=0)  # chunks at once in a worker
    lease_seconds: float = Field(default=20.0, gt=0)
    progress_seconds: float = Field(default=1.0, ge=0)  # between two reports of a chunk
    stall_seconds: float = Field(default=20.0, gt=0)  # without progress, after which work is published again
    reconcile_seconds: float = Field(default=5.0, gt=0)
    scratch_directory: Path | None = None  # for files on their way; the system's own by default

    @property
    def lease(self) -> timedelta:
        """For how long a worker that does not answer keeps a dataset."""
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
