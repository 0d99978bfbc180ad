"""The local files that a COCO file names, and how they are uploaded to the dataset service."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sightline.client.errors import AnnotationsUnreadable, ImagesMissing, MissingImage
from sightline.client.results.kinds import DatasetKind
from sightline.v1 import dataset_service_pb2 as dataset_service

CHUNK_BYTES = 1024 * 1024  # the most that UploadFiles accepts in one message
BATCH_FILES = 256
BATCH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A local file, and the path under which it is uploaded."""

    path: str
    file: Path


@dataclass(frozen=True, slots=True)
class LocalSet:
    """The files to upload: a COCO file, then exactly the images it names, each once."""

    files: tuple[LocalFile, ...]
    kind: DatasetKind  # detection if any annotation has a box


def files_of(annotations: Path, images: Path | None = None) -> tuple[LocalFile, ...]:
    """The files of `read_set`."""
    return read_set(annotations, images).files


def read_set(annotations: Path, images: Path | None = None) -> LocalSet:
    """The files to upload for a COCO file.

    Image names are relative to `images`, by default the COCO file's folder; images that are already in the store
    (`s3://...`) are left out. Raises AnnotationsUnreadable, or ImagesMissing with every image that does not exist.
    """
    folder = images or annotations.parent
    content = _content(annotations)
    found = {annotations.name: LocalFile(annotations.name, annotations)}
    missing: list[MissingImage] = []
    for image_id, name in _named_images(content):
        path = "/".join(part for part in name.split("/") if part not in ("", "."))
        if problem := _problem(name, folder / path):
            missing.append(MissingImage(image_id, name, problem))
        else:
            found[path] = LocalFile(path, folder / path)
    if missing:
        raise ImagesMissing.named(annotations, missing)
    return LocalSet(tuple(found.values()), _kind_of(content))


def _problem(name: str, file: Path) -> str:
    """Why an image with this name cannot be uploaded; empty if it can."""
    if name.startswith("/") or ".." in name.split("/"):
        return "is outside the folder of the images; use a path relative to that folder, without '..'"
    return "" if file.is_file() else f"there is no file {file}"


def _content(annotations: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(annotations.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise AnnotationsUnreadable(f"{annotations} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise AnnotationsUnreadable(f"{annotations} is not a COCO file: its top level is not an object")
    return cast("dict[str, Any]", content)


def _entries(content: dict[str, Any], section: str) -> Iterator[dict[str, Any]]:
    """The objects in a section. The service finds the COCO file's other errors."""
    listed = content.get(section)
    for entry in cast("list[Any]", listed) if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            yield cast("dict[str, Any]", entry)


def _named_images(content: dict[str, Any]) -> Iterator[tuple[object, str]]:
    """The id and file name of every local image."""
    for entry in _entries(content, "images"):
        name = entry.get("file_name")
        uris = [str(entry.get(field) or "") for field in ("absolute_url", "coco_url", "file_name")]
        in_store = any(uri.startswith("s3://") for uri in uris)
        if isinstance(name, str) and name and "://" not in name and not in_store:
            yield entry.get("id"), name


def _kind_of(content: dict[str, Any]) -> DatasetKind:
    boxes = any(entry.get("bbox") or entry.get("segmentation") for entry in _entries(content, "annotations"))
    return DatasetKind.DETECTION if boxes else DatasetKind.CLASSIFICATION


def batches(files: Iterable[LocalFile]) -> Iterator[list[LocalFile]]:
    """The files, in batches small enough that repeating one is cheap.

    The largest come first, so that the service rejects a file that is too large before the others are sent.
    """
    batch: list[LocalFile] = []
    size_bytes = 0
    for file in sorted(files, key=lambda file: file.file.stat().st_size, reverse=True):
        size_bytes += file.file.stat().st_size
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
        with file.file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
            announced = dataset_service.FileHeader(path=file.path, sha256=sha256, size_bytes=content.tell())
            yield dataset_service.UploadFilesRequest(file=announced)
            content.seek(0)
            while chunk := content.read(CHUNK_BYTES):
                yield dataset_service.UploadFilesRequest(chunk=chunk)
                sent(len(chunk))
