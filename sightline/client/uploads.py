"""Which local files a COCO file needs, and how they travel to the dataset service."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sightline.client.plurals import counted
from sightline.v1 import dataset_service_pb2 as dataset_service

CHUNK_BYTES = 1024 * 1024  # what UploadFiles accepts at most in one message
BATCH_FILES = 256
BATCH_BYTES = 64 * 1024 * 1024


class UnreadableAnnotations(Exception):
    """A local COCO file cannot be read; the message says where and why."""


class FilesMissing(Exception):
    """Images that a COCO file names are not there; `images` holds all of them."""

    def __init__(self, annotations: Path, images: tuple["MissingImage", ...]) -> None:
        super().__init__(f"{annotations} names {counted(len(images), 'image')} that cannot be uploaded")
        self.images = images


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file here, and the path under which it is uploaded."""

    path: str
    file: Path


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An image that a COCO file names and that cannot be uploaded."""

    image_id: object
    file_name: str
    problem: str


def files_of(annotations: Path, images: Path | None = None) -> tuple[LocalFile, ...]:
    """The COCO file, then precisely the images that it names, each once.

    Names are relative to `images`, by default to the COCO file's folder; images that already lie in the store
    (`s3://...`) are left out. Raises UnreadableAnnotations, or FilesMissing with every image that is not there.
    """
    folder = images or annotations.parent
    found = {annotations.name: LocalFile(annotations.name, annotations)}
    missing: list[MissingImage] = []
    for image_id, name in _named_images(annotations):
        path = "/".join(part for part in name.split("/") if part not in ("", "."))
        if problem := _problem(name, folder / path):
            missing.append(MissingImage(image_id, name, problem))
        else:
            found[path] = LocalFile(path, folder / path)
    if missing:
        raise FilesMissing(annotations, tuple(missing))
    return tuple(found.values())


def _problem(name: str, file: Path) -> str:
    """Why an image of this name cannot be uploaded, or nothing."""
    if name.startswith("/") or ".." in name.split("/"):
        return "leaves the folder of the images; name it relative to that folder, without '..'"
    return "" if file.is_file() else f"there is no file {file}"


def _named_images(annotations: Path) -> Iterator[tuple[object, str]]:
    """The id and the file of every image that lies here. The COCO file's other faults are the service's to find."""
    try:
        content: Any = json.loads(annotations.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UnreadableAnnotations(f"{annotations} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableAnnotations(f"{annotations} is no COCO file: its top level is not an object")
    images = cast("dict[str, Any]", content).get("images")
    for image in cast("list[Any]", images) if isinstance(images, list) else []:
        if isinstance(image, dict):
            entry = cast("dict[str, Any]", image)
            name = entry.get("file_name")
            uris = [str(entry.get(field) or "") for field in ("absolute_url", "coco_url", "file_name")]
            in_store = any(uri.startswith("s3://") for uri in uris)
            if isinstance(name, str) and name and "://" not in name and not in_store:
                yield entry.get("id"), name


def batches(files: Iterable[LocalFile]) -> Iterator[list[LocalFile]]:
    """The files in groups small enough that one which fails on the way is cheap to repeat."""
    batch: list[LocalFile] = []
    size_bytes = 0
    for file in files:
        size_bytes += file.file.stat().st_size
        batch.append(file)
        if len(batch) >= BATCH_FILES or size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def messages(
    upload_id: str, files: Iterable[LocalFile], sent: Callable[[int], None]
) -> Iterator[dataset_service.UploadFilesRequest]:
    """The stream of UploadFiles for these files; `sent` hears the size of each chunk as it is asked for."""
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
