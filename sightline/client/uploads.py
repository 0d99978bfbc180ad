"""The files of an export, and how they are uploaded to the dataset service."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO

from sightline.client.errors import AnnotationsUnreadable, ImagesMissing, InvalidRequest, MissingImage
from sightline.client.quantities import size
from sightline.client.results.kinds import DatasetKind
from sightline.importers.files import images_in
from sightline.importers.folders import unread_in
from sightline.importers.image_files import ImagesUnresolved
from sightline.importers.model import BoxForm, Format, ImportFault
from sightline.importers.package import Package, fault_of_upload, pack, upload_path
from sightline.importers.read import read
from sightline.plurals import counted
from sightline.text import shown
from sightline.v1 import dataset_service_pb2 as dataset_service

CHUNK_BYTES = 1024 * 1024  # the most that UploadFiles accepts in one message
BATCH_FILES = 256
UPLOAD_ID_DIGITS = 40
BATCH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A local file, and the path under which it is uploaded; with `content`, these bytes instead of the file's."""

    path: str
    file: Path
    content: bytes | None = None
    sha256: str = ""  # of the bytes to upload, once it is known

    @property
    def size_bytes(self) -> int:
        """How many bytes are uploaded."""
        return self.file.stat().st_size if self.content is None else len(self.content)

    def open(self) -> BinaryIO:
        """The bytes to upload."""
        return self.file.open("rb") if self.content is None else BytesIO(self.content)

    def digested(self) -> "LocalFile":
        """The file with its digest."""
        if self.sha256:
            return self
        with self.open() as content:
            digest = hashlib.file_digest(content, "sha256")  # pyright: ignore[reportArgumentType] - BytesIO has what it needs
        return replace(self, sha256=digest.hexdigest())


@dataclass(frozen=True, slots=True)
class LocalSet:
    """The files to upload: COCO files, then exactly the images they name, each once."""

    files: tuple[LocalFile, ...]
    annotations: tuple[str, ...]  # the paths of the COCO files
    kind: DatasetKind  # detection if any annotation has a box
    left_out: tuple[LocalFile, ...] = ()  # images that are too large

    @property
    def size_bytes(self) -> int:
        """How many bytes are uploaded."""
        return sum(file.size_bytes for file in self.files)

    @property
    def upload_id(self) -> str:
        """The same for the same files, so that an interrupted upload is found again; the digests must be known."""
        lines = sorted(f"{file.sha256} {file.path}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:UPLOAD_ID_DIGITS]

    def up_to(self, max_image_bytes: int) -> "LocalSet":
        """A set without annotations, without larger images, if the limit is not 0; InvalidRequest if none is left."""
        large = tuple(file for file in self.files if 0 < max_image_bytes < file.size_bytes)
        _refuse_none_left(large, self.files, max_image_bytes)
        kept = {file.path for file in self.files} - {file.path for file in large}
        return replace(self, files=tuple(file for file in self.files if file.path in kept), left_out=large)

    def has_larger(self, max_image_bytes: int) -> bool:
        """Whether an image has more bytes, if that is not 0."""
        return any(0 < max_image_bytes < file.size_bytes for file in self.files if file.path not in self.annotations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How to read an export; by default its content decides."""

    form: Format | None = None
    images: Path | None = None  # the folder that image names are relative to
    boxes: BoxForm | None = None  # what the four numbers of a box are
    splits: Collection[str] = ()  # train, val, test; all if empty
    url_prefixes: Mapping[str, str | Path] | None = None  # folders that beginnings of URLs stand for


def files_of(annotations: Path, images: Path | None = None) -> tuple[LocalFile, ...]:
    """The files to upload for a COCO file."""
    return local_set(read_export(annotations, Reading(form=Format.COCO, images=images))).files


def read_export(source: Path, reading: Reading) -> Package:
    """An export whose images were all found.

    Raises AnnotationsUnreadable with every fault, or ImagesMissing with every image that was not found.
    """
    try:
        imported = read(source, form=reading.form, images=reading.images)
        if reading.splits:
            imported = imported.only(reading.splits)
        prefixes = {prefix: Path(folder) for prefix, folder in (reading.url_prefixes or {}).items()}
        return pack(imported, boxes=reading.boxes, url_prefixes=prefixes)
    except ImagesUnresolved as error:
        missing = [MissingImage(image.id, image.name, image.problem) for image in error.images]
        raise ImagesMissing.named(error.source, missing, error.fix) from None
    except ImportFault as error:
        raise AnnotationsUnreadable.with_faults(error.message, error.faults, error.fix) from None


def _refuse_none_left(large: Sized, files: Sized, max_image_bytes: int) -> None:
    """InvalidRequest if all images are too large."""
    if len(large) == len(files) > 0:
        raise InvalidRequest(
            f"{counted(len(large), 'image')}, and all are larger than {size(max_image_bytes)}",
            fix="scale them down, or save them as JPEG",
        )


def local_set(package: Package, max_image_bytes: int = 0) -> LocalSet:
    """The files to upload for an export, without images of more than `max_image_bytes`, if that is not 0."""
    found = {placed.path: LocalFile(placed.path, placed.file) for placed in package.included}
    large = tuple(file for file in found.values() if 0 < max_image_bytes < file.size_bytes)
    _refuse_none_left(large, found, max_image_bytes)
    for file in large:
        del found[file.path]
    coco = [
        LocalFile(one.path, one.file or package.imported.source, one.content)
        for one in package.annotation_files([file.path for file in large])
    ]
    kind = DatasetKind.DETECTION if package.imported.detection else DatasetKind.CLASSIFICATION
    return LocalSet((*coco, *found.values()), tuple(file.path for file in coco), kind, large)


def images_below(folder: Path, note: Callable[[str], None]) -> LocalSet:
    """The images below a folder, under their paths relative to it, or like these if the service refuses them.

    `note` receives what is renamed or cannot be read. Raises InvalidRequest if there are no images, ImagesMissing with
    every one that cannot be uploaded.
    """
    paths = {name: upload_path(folder / name, folder) for name in image_names(folder, note)}
    if not paths:
        raise InvalidRequest(f"{folder} has no images", fix="name a folder that has some, or an s3:// uri")
    found: dict[str, LocalFile] = {}
    for name in sorted(paths, key=lambda name: (paths[name] != name, name)):  # those that keep their paths come first
        while paths[name] in found:
            paths[name] = f"_{paths[name]}"
        found[paths[name]] = LocalFile(paths[name], folder / name)
    faults = [(name, fault_of_upload(folder / name, path)) for name, path in paths.items()]
    if missing := [MissingImage(None, name, fault) for name, fault in faults if fault]:
        raise ImagesMissing.below(folder, missing)
    if renamed := [f"{shown(name, '')} as {path}" for name, path in paths.items() if path != name]:
        note(f"uploaded under other names, as the store does not accept their own: {', '.join(renamed)}")
    return LocalSet(tuple(found.values()), (), DatasetKind.UNKNOWN)


def image_names(folder: Path, note: Callable[[str], None]) -> list[str]:
    """The image files below a folder, relative to it, without hidden ones; `note` receives what cannot be read."""
    if unread := unread_in(folder):
        note(f"left out, as they cannot be read here: {unread}; convert them to JPEG or PNG")
    return sorted(images_in(folder))


def digested(local: LocalSet, read: Callable[[int], None], known: LocalSet | None = None) -> LocalSet:
    """The set with its files' digests, which are not computed again for the same files in `known`.

    `read` receives the size of each file.
    """
    found = {file.file: file.sha256 for file in known.files if file.content is None} if known else {}
    files: list[LocalFile] = []
    for file in local.files:
        one = file if file.content is not None else replace(file, sha256=found.get(file.file, ""))
        files.append(one.digested())
        read(file.size_bytes)
    return replace(local, files=tuple(files))


def batches(files: Iterable[LocalFile]) -> Iterator[list[LocalFile]]:
    """The files, in batches small enough that repeating one is cheap.

    The largest come first, so that the service rejects a file that is too large before the others are sent.
    """
    batch: list[LocalFile] = []
    size_bytes = 0
    for file in sorted(files, key=lambda file: file.size_bytes, reverse=True):
        size_bytes += file.size_bytes
        batch.append(file)
        if len(batch) >= BATCH_FILES or size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


class Counter:
    """Reports the bytes of a batch to `sent`, and takes them back if the batch has to be sent again."""

    def __init__(self, sent: Callable[[int], None]) -> None:
        self._sent, self._bytes = sent, 0

    def count(self, size_bytes: int) -> None:
        """Adds bytes that were sent."""
        self._bytes += size_bytes
        self._sent(size_bytes)

    def take_back(self) -> None:
        """Subtracts the batch, which will be sent again."""
        self._sent(-self._bytes)


def messages(
    upload_id: str, files: Iterable[LocalFile], sent: Callable[[int], None]
) -> Iterator[dataset_service.UploadFilesRequest]:
    """The request stream of UploadFiles for these files; `sent` receives the size of each chunk as gRPC takes it."""
    header = dataset_service.UploadFilesHeader(upload_id=upload_id)
    yield dataset_service.UploadFilesRequest(header=header)
    for file in files:
        sha256 = file.digested().sha256
        with file.open() as content:
            announced = dataset_service.FileHeader(path=file.path, sha256=sha256, size_bytes=content.seek(0, SEEK_END))
            yield dataset_service.UploadFilesRequest(file=announced)
            content.seek(0)
            while chunk := content.read(CHUNK_BYTES):
                yield dataset_service.UploadFilesRequest(chunk=chunk)
                sent(len(chunk))
