"""The dataset service's settings; see `services.kit.settings` for the common ones."""

import os
from datetime import timedelta
from pathlib import Path

from pydantic import Field

from services.kit.settings import Settings
from services.vision.decode_limits import DecodeLimits
from services.vision.snapshot import AnnotationKind


class DatasetSettings(Settings):
    """Quotas and the division of work; each field is read from `SIGHTLINE_<FIELD>`."""

    max_coco_bytes: int = Field(default=1 << 30, gt=0)
    max_image_bytes: int = Field(default=20 << 20, gt=0)
    max_classification_images: int = Field(default=1_000_000, gt=0)
    max_detection_images: int = Field(default=200_000, gt=0)
    max_annotations: int = Field(default=5_000_000, gt=0)  # of all files of a dataset
    max_classification_categories: int = Field(default=2_500, gt=0)
    max_detection_categories: int = Field(default=1_000, gt=0)
    max_regions: int = Field(default=1_000, gt=0)  # boxes per image
    max_bad_share: float = Field(default=0.2, ge=0, le=1)  # of images or annotations; above it a dataset is FAILED
    max_upload_files: int = Field(default=10_000, gt=0)  # per stream; an upload may use several streams
    max_project_uploads: int = Field(default=10_000, gt=0)  # also of those without files
    max_project_upload_bytes: int = Field(default=1 << 40, gt=0)  # of all uploads of a project
    max_project_upload_files: int = Field(default=5_000_000, gt=0)
    max_total_upload_bytes: int = Field(default=10 << 40, gt=0)  # of all projects
    max_total_upload_files: int = Field(default=50_000_000, gt=0)
    upload_idle_seconds: float = Field(default=60.0, gt=0)  # that UploadFiles waits for the next message
    upload_expiry_hours: float = Field(default=720.0, gt=0)  # after which an upload goes that no dataset names
    findings_per_code: int = Field(default=1_000, gt=0)  # listed; the rest are only counted
    chunk_images: int = Field(default=1_000, gt=0, le=100_000)  # per job
    images_in_flight: int = Field(default=16, gt=0)  # per chunk; each takes at most max_image_bytes
    ingest_threads: int = Field(default_factory=lambda: os.cpu_count() or 1, gt=0)  # decoding images, each in a process
    decode_bytes: int = Field(default=2_684_354_560, gt=0)  # estimated memory of large images that are decoded at once
    decode_cpu_seconds: float = Field(default=60.0, gt=0)  # per image
    decode_seconds: float = Field(default=300.0, gt=0)  # per image
    max_image_scans: int = Field(default=100, gt=0)  # of a progressive JPEG
    ingest_jobs: int = Field(default=2, gt=0)  # chunks at once per worker
    lease_seconds: float = Field(default=20.0, gt=0)
    progress_seconds: float = Field(default=1.0, ge=0)  # between progress reports of a chunk
    stall_seconds: float = Field(default=20.0, gt=0)  # without progress, before work is published again
    reconcile_seconds: float = Field(default=5.0, gt=0)
    scratch_directory: Path | None = None  # for temporary files; the system's by default

    @property
    def decode_limits(self) -> DecodeLimits:
        """What decoding may take."""
        return DecodeLimits(
            self.ingest_threads,
            self.decode_bytes,
            self.decode_cpu_seconds,
            self.decode_seconds,
            self.max_image_scans,
        )

    @property
    def lease(self) -> timedelta:
        """How long an unresponsive worker keeps a dataset."""
        return timedelta(seconds=self.lease_seconds)

    def max_images(self, kind: AnnotationKind) -> tuple[int, str]:
        """The most images that a dataset may have, and the name of the setting."""
        if kind is AnnotationKind.IMAGE_CLASSIFICATION:
            return self.max_classification_images, "SIGHTLINE_MAX_CLASSIFICATION_IMAGES"
        return self.max_detection_images, "SIGHTLINE_MAX_DETECTION_IMAGES"

    def max_categories(self, kind: AnnotationKind) -> tuple[int, str]:
        """The most categories that a dataset may declare, and the name of the setting."""
        if kind is AnnotationKind.IMAGE_CLASSIFICATION:
            return self.max_classification_categories, "SIGHTLINE_MAX_CLASSIFICATION_CATEGORIES"
        return self.max_detection_categories, "SIGHTLINE_MAX_DETECTION_CATEGORIES"
