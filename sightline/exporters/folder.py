"""Writes an export into a folder: what is there already with the right content stays, and nothing else is touched."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from sightline.exporters.model import Export, ExportFault, Image
from sightline.importers.files import walk

PART = ".sightline-part"  # a file before it is complete
LISTED = 5


class Target:
    """The folder of an export; `missing` are the images that it does not have yet."""

    def __init__(self, folder: Path, export: Export, images: Iterable[Image], *, force: bool = False) -> None:
        """ExportFault if the folder has other files, or others in the place of the export's, unless `force`."""
        if folder.exists() and not folder.is_dir():
            raise ExportFault(f"{folder} is a file", fix="name a folder, or one that does not exist yet")
        self.folder, self._export = folder, export
        self.images = {image.id: image for image in images if image.id in export.images}
        planned = {path: id_ for id_, path in export.images.items()}
        present = set(walk(folder)) if folder.exists() else set[str]()
        self._right = {path for path in present & {*planned, *export.documents} if self._is_right(path, planned)}
        if (others := sorted(present - self._right)) and not force:
            listed = ", ".join(others[:LISTED]) + (f" and {len(others) - LISTED} more" if others[LISTED:] else "")
            raise ExportFault(
                f"{folder} has files that are not of this export: {listed}",
                fix="name another folder, or add --force, which replaces files of the same names",
            )
        self.missing = {id_: image for id_, image in self.images.items() if export.images[id_] not in self._right}

    @property
    def after(self) -> int | None:
        """The id of the image before the first missing one; None to read from the start."""
        previous: int | None = None
        for id_ in self.images:
            if id_ in self.missing:
                break
            previous = id_
        return previous

    def write(self, image_id: int, content: bytes) -> bool:
        """Writes an image if it is missing, and says so; ExportFault if it is not the one of the annotations."""
        image = self.missing.get(image_id)
        if image is None:
            return False
        if hashlib.sha256(content).hexdigest() != image.sha256:
            raise ExportFault(f"image {image_id} ({image.file_name}) arrived with other bytes", fix="repeat the export")
        self._put(self._export.images[image_id], content)
        return True

    def finish(self) -> None:
        """Writes the annotations, which come last: a folder that has them is complete."""
        for path, content in self._export.documents.items():
            if path not in self._right:
                self._put(path, content)

    def _is_right(self, path: str, planned: Mapping[str, int]) -> bool:
        """Whether a file has the content that the export has at its path."""
        file = self.folder / path
        if file.is_symlink():
            return False
        if path not in planned:
            return file.read_bytes() == self._export.documents[path]
        image = self.images[planned[path]]
        if file.stat().st_size != image.size_bytes:
            return False
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == image.sha256

    def _put(self, path: str, content: bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.parent.resolve().is_relative_to(self.folder.resolve()):
            raise ExportFault(
                f"{file.parent} leads out of {self.folder}", fix="remove the link, or name another folder"
            )
        part = self.folder / PART
        part.unlink(missing_ok=True)
        part.write_bytes(content)
        part.replace(file)
