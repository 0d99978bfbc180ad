"""Reads a dataset's images back and writes them in a form that other tools read; whoever has a stream feeds it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sightline.client.errors import DatasetChanged, ExportRefused
from sightline.client.progress import Step
from sightline.client.quantities import size
from sightline.client.results.export import Exported
from sightline.exporters.folder import Target
from sightline.exporters.forms import export
from sightline.exporters.model import Box, ExportFault, ExportFormat, Image, Snapshot
from sightline.plurals import counted
from sightline.v1 import dataset_pb2
from sightline.v1 import dataset_service_pb2 as service


class Annotations:
    """A snapshot without its images. `request` continues after what has arrived."""

    def __init__(self, dataset: str, version: int = 0) -> None:
        self.request = service.ReadImagesRequest(parent=dataset, version=version, annotations_only=True)
        self._header = service.Snapshot()
        self._images: list[Image] = []

    def take(self, message: service.ReadImagesResponse) -> Step:
        """Takes the next message of the stream; DatasetChanged if it is of another snapshot than the first ones."""
        if message.HasField("snapshot"):
            _require_same(self.request.parent, self._header.digest or message.snapshot.digest, message.snapshot.digest)
            self._header = message.snapshot
        for one in message.images:
            self._images.append(_image(one))
            self.request.after_image_id = one.image_id
        count = len(self._images)
        return count / max(self._header.image_count, 1), "reading annotations", counted(count, "image")

    def snapshot(self) -> Snapshot:
        """The snapshot, once the stream has ended."""
        return Snapshot(
            dataset=self.request.parent,
            version=self.request.version,
            digest=self._header.digest,
            detection=self._header.annotation_kind == dataset_pb2.Dataset.OBJECT_DETECTION,
            categories={category.id: category.name for category in self._header.categories},
            images=self._images,
        )


class Download:
    """The images of an export that its folder does not have yet. `request` continues after what has arrived."""

    def __init__(self, snapshot: Snapshot, folder: Path, form: ExportFormat, *, force: bool) -> None:
        """ExportRefused if the form cannot express the dataset, or the folder has other files."""
        self._snapshot, self._form = snapshot, form
        with _refusing():
            self._export = export(snapshot, form)
            self._target = Target(folder, self._export, snapshot.images, force=force)
        self.request = service.ReadImagesRequest(
            parent=snapshot.dataset, version=snapshot.version, after_image_id=self._target.after
        )
        self._image = service.SnapshotImage()
        self._content = bytearray()
        self._due_bytes = sum(image.size_bytes for image in self._target.missing.values())
        self._done_bytes = self._done = 0

    @property
    def is_due(self) -> bool:
        """Whether an image is missing."""
        return bool(self._target.missing)

    def take(self, message: service.ReadImagesResponse) -> Step:
        """Takes the next message of the stream, and writes the image that it completes."""
        if message.HasField("snapshot"):
            _require_same(self._snapshot.dataset, self._snapshot.digest, message.snapshot.digest)
        elif message.images:
            self._image, self._content = message.images[0], bytearray()
        else:
            self._content += message.chunk
            if len(self._content) == self._image.size_bytes:
                self._write()
        return self._step()

    def finish(self) -> Exported:
        """Writes the annotations, once the stream has ended."""
        with _refusing():
            self._target.finish()
        return Exported(
            folder=self._target.folder,
            format=self._form,
            image_count=len(self._target.images),
            written_count=len(self._target.missing),
            notes=tuple(self._export.notes),
        )

    def _write(self) -> None:
        with _refusing():
            written = self._target.write(self._image.image_id, bytes(self._content))
        self._done += written
        self._done_bytes += self._image.size_bytes if written else 0
        self.request.after_image_id = self._image.image_id

    def _step(self) -> Step:
        doing = f"{self._done} of {counted(len(self._target.missing), 'image')}"
        return (
            self._done_bytes / max(self._due_bytes, 1),
            doing,
            f"{size(self._done_bytes)} of {size(self._due_bytes)}",
        )


@contextmanager
def _refusing() -> Generator[None]:
    try:
        yield
    except ExportFault as error:
        raise ExportRefused(error.message, fix=error.fix) from None


def _require_same(dataset: str, first: str, now: str) -> None:
    if first != now:
        raise DatasetChanged(
            f"{dataset} was replaced by another one of its name while it was read", fix="repeat the export"
        )


def _image(one: service.SnapshotImage) -> Image:
    return Image(
        id=one.image_id,
        file_name=one.file_name,
        width=one.width,
        height=one.height,
        size_bytes=one.size_bytes,
        sha256=one.sha256,
        extension=one.extension,
        category_id=one.category_id if one.HasField("category_id") else None,
        boxes=tuple(Box(box.category_id, box.x, box.y, box.width, box.height, box.is_crowd) for box in one.boxes),
    )
