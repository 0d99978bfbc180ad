"""What an export, or a draft, wrote."""

from dataclasses import dataclass
from pathlib import Path

from sightline.exporters.model import ExportFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A dataset as files on this machine."""

    folder: Path
    format: ExportFormat
    image_count: int
    written_count: int  # images that were not there yet
    notes: tuple[str, ...]  # what the form cannot express, and files that are named otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Images that a model was unsure of, with its answers as annotations to correct."""

    folder: Path
    image_count: int
    detection: bool  # whether the annotations are boxes

    @property
    def annotations(self) -> Path:
        """The COCO file, which can be registered once it is corrected; it is missing if there are no images."""
        return self.folder / "annotations.json"
