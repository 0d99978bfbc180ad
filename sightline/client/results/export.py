"""What an export wrote."""

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
