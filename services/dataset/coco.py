"""Reads and checks a COCO file: turns untrusted bytes into rows of work, or findings that say what is wrong where."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated

import msgspec

from services.dataset.boxes import Xywh, read_box
from services.dataset.findings import FindingLog
from services.dataset.repair import repaired
from services.kit.callers import DEFAULT_PROJECT
from services.kit.errors import UnreadableUri
from services.kit.reach import NOTHING_OPEN, Reach
from services.vision.snapshot import AnnotationKind
from sightline.blob_keys import MAX_KEY_BYTES, MAX_PART_BYTES, fault_of_key

MAX_BOX_BYTES = 1024  # of a bbox, as JSON
OBJECTS_PER_ENTRY = 3  # JSON objects in a file for each image, annotation and category that it may have

_DRIVE = re.compile(r"[A-Za-z]:/")
_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_. -]*/)*[A-Za-z0-9_][A-Za-z0-9_. -]*")
_PLAIN_BYTES = MAX_PART_BYTES  # so that no part of the path is longer
_NULL = msgspec.Raw(b"null")

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class CocoImage(msgspec.Struct, frozen=True, gc=False):
    """An entry of `images`; other fields are ignored."""

    id: Id
    file_name: str = ""
    coco_url: str | None = None
    absolute_url: str | None = None
    width: float | None = None
    height: float | None = None


class CocoAnnotation(msgspec.Struct, frozen=True, gc=False):
    """An entry of `annotations`."""

    image_id: Id
    id: Id | None = None
    category_id: Id | None = None
    bbox: msgspec.Raw = _NULL  # read one by one: a malformed one spoils no other, and a long one takes no memory
    iscrowd: int | bool | None = 0


class CocoCategory(msgspec.Struct, frozen=True):
    """An entry of `categories`."""

    id: Id
    name: str = ""


class CocoFile(msgspec.Struct, frozen=True):
    """A COCO file."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation] = []
    categories: list[CocoCategory] = []


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An annotation as the worker of a chunk needs it; its box as in the file."""

    id: int | None
    category: int  # index into the snapshot's categories
    bbox: Xywh | None = None
    iscrowd: bool = False


class Row(msgspec.Struct, frozen=True, array_like=True):
    """An image to check."""

    snapshot_id: int  # unique over all files of the dataset, ascending
    id: int  # as in its file
    file: str  # the image, as its file names it
    key: str  # blob key
    width: float | None  # as declared
    height: float | None
    marks: list[Mark]


_decoder = msgspec.json.Decoder(CocoFile)
_box_decoder = msgspec.json.Decoder(tuple[float, float, float, float])


def objects_at_most(data: bytes) -> int:
    """No fewer than the JSON objects in the file, counted without parsing it."""
    return data.count(b"{")


def box_of(mark: CocoAnnotation) -> Xywh | str | None:
    """The four numbers of an annotation's bbox, or what is wrong with it; None if there is none."""
    try:
        return _box_decoder.decode(mark.bbox)
    except msgspec.DecodeError:
        pass
    if len(mark.bbox) > MAX_BOX_BYTES:
        return f"is longer than {MAX_BOX_BYTES} characters"
    try:
        bbox: object = msgspec.json.decode(mark.bbox)
    except msgspec.DecodeError:
        return "has a number that is too large"  # all else was checked when the file was read
    return None if bbox is None else read_box(bbox)


def parse(data: bytes, uri: str, log: FindingLog) -> CocoFile | None:
    """The file, or None and a fatal finding that says where it is malformed."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError as error:
        mended = repaired(data, uri, log)
        if mended is not None:
            return _decoder.decode(mended)
        log.add("annotationFileNotCoco", uri, problem=str(error))
    except msgspec.DecodeError as error:
        _not_json(data, str(error), uri, log)
    except RecursionError:
        log.add("annotationFileNotCoco", uri, problem="its values are nested too deeply")
    except UnicodeDecodeError as error:
        _not_json(data, f"not UTF-8 (byte {error.start})", uri, log)
    return None


def _not_json(data: bytes, message: str, uri: str, log: FindingLog) -> None:
    problem, _, place = message.partition(" (byte ")
    offset = int(place.removesuffix(")")) if place else len(data)
    before = data[:offset]
    line = before.count(b"\n") + 1
    column = offset - (before.rfind(b"\n") + 1) + 1
    found = data[offset : offset + 8]
    if data[offset - 1 : offset] == b"-":
        found, column = b"-" + found, column - 1
    for token in (b"NaN", b"Infinity", b"-Infinity", b"-NaN"):
        if found.startswith(token[:8]):
            log.add("annotationFileNotFinite", uri, token=token.decode(), line=line, column=column)
            return
    problem = problem.removeprefix("JSON is malformed: ")
    log.add("annotationFileNotJson", uri, line=line, column=column, problem=problem)


def check_ids(file: CocoFile, uri: str, categories: dict[int, int], log: FindingLog) -> None:
    """Reports ids that are used twice or not declared."""
    images: dict[int, str] = {}
    for image in file.images:
        if image.id in images:
            log.add("imageDuplicateId", uri, image.id, image=image.id, first=images[image.id], second=image.file_name)
        images.setdefault(image.id, image.file_name)
    seen: set[int] = set()
    repeated: list[int] = []
    for mark in file.annotations:
        if mark.id is not None and mark.id in seen:
            repeated.append(mark.id)
        elif mark.id is not None:
            seen.add(mark.id)
        if mark.category_id is None:
            log.add("annotationWithoutCategory", images.get(mark.image_id, uri), mark.image_id, mark.id)
        elif mark.category_id not in categories:
            file_name = images.get(mark.image_id, uri)
            log.add("categoryUndeclared", file_name, mark.image_id, mark.id, category_id=mark.category_id)
        if mark.image_id not in images:
            log.add("annotationUnknownImage", uri, mark.image_id, mark.id, image=mark.image_id)
    if repeated:
        log.add("annotationDuplicateId", uri, count=len(repeated), annotation=repeated[0])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a COCO file is stored; its images are located relative to it."""

    uri: str
    key: str
    bucket: str
    project: str = DEFAULT_PROJECT
    reach: Reach = NOTHING_OPEN  # of the project's callers

    def prefix_of_plain(self) -> str:
        """What precedes a plain file name in its key; empty if such keys have to be looked at one by one."""
        prefix = self.key.rpartition("/")[0] + "/"
        ordinary = len(prefix) + _PLAIN_BYTES <= MAX_KEY_BYTES and not fault_of_key(prefix + "a")
        return prefix if ordinary and self.reach.has(prefix, self.project) else ""

    def locate(self, image: CocoImage) -> str:
        """The image's key; UnreadableUri, or ValueError saying what is wrong with its path.

        A uri of the store in absolute_url or coco_url takes precedence over file_name, which is relative to the COCO
        file's folder.
        """
        for uri in (image.absolute_url, image.coco_url):
            if uri and (uri.startswith("s3://") or not image.file_name):
                return self.reach.key(uri, self.bucket, self.project)
        name = image.file_name
        if "://" in name:
            return self.reach.key(name, self.bucket, self.project)
        name = name.replace("\\", "/")
        if name.startswith("/") or _DRIVE.match(name):
            raise ValueError("is absolute")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ValueError("leaves the annotation file's folder with '..'")
        folder = self.key.rpartition("/")[0]
        key = "/".join([folder, *parts] if folder else parts)
        if fault := fault_of_key(key):
            raise ValueError(fault)
        if not self.reach.has(key, self.project):
            raise ValueError("is not in an upload of the project")
        return key


def rows(
    file: CocoFile, place: Place, kind: AnnotationKind, categories: dict[int, int], shift: int, log: FindingLog
) -> Iterator[Row]:
    """The images by id, each with its annotations; images without a usable path are left out."""
    marks = sorted(file.annotations, key=attrgetter("image_id"))
    position, foreign, prefix = 0, 0, place.prefix_of_plain()
    for image in sorted(file.images, key=attrgetter("id")):
        while position < len(marks) and marks[position].image_id < image.id:
            position += 1
        own: list[Mark] = []
        while position < len(marks) and marks[position].image_id == image.id:
            mark = _mark(marks[position], image, kind, categories, log)
            own += [mark] if mark else []
            position += 1
        if prefix and _is_plain(image):  # almost all are, and the rest takes ten times as long
            key = prefix + image.file_name
        else:
            key = _locate(place, image, log)
            foreign += sum(1 for uri in (image.coco_url, image.absolute_url) if uri and not uri.startswith("s3://"))
        if key:
            name = image.file_name or image.absolute_url or image.coco_url or ""
            yield Row(shift + image.id, image.id, name, key, image.width, image.height, own)
    if foreign:
        log.add("imageUriIgnored", place.uri, count=foreign)


def _is_plain(image: CocoImage) -> bool:
    """Whether the image is named by a relative path of ordinary characters, and by nothing else."""
    name = image.file_name
    return (
        not (image.coco_url or image.absolute_url) and len(name) <= _PLAIN_BYTES and _PLAIN.fullmatch(name) is not None
    )


def _locate(place: Place, image: CocoImage, log: FindingLog) -> str:
    if not (image.file_name or image.coco_url or image.absolute_url):
        log.add("imagePathMissing", place.uri, image.id)
        return ""
    path = image.file_name or image.absolute_url or image.coco_url or ""
    try:
        return place.locate(image)
    except UnreadableUri as error:
        path, problem = error.metadata["uri"], f"cannot be read: {error.metadata['problem']}"
    except ValueError as error:
        problem = str(error)
    log.add("imagePathInvalid", path, image.id, path=path, problem=problem)
    return ""


def _mark(
    mark: CocoAnnotation, image: CocoImage, kind: AnnotationKind, categories: dict[int, int], log: FindingLog
) -> Mark | None:
    category = categories.get(-1 if mark.category_id is None else mark.category_id)
    if category is None:
        return None  # check_ids reported it
    if kind is AnnotationKind.IMAGE_CLASSIFICATION:
        return Mark(mark.id, category)
    box = box_of(mark)
    if box is None:
        log.add("boxMissing", image.file_name, image.id, mark.id)
        return None
    if isinstance(box, str):
        log.add("boxMalformed", image.file_name, image.id, mark.id, problem=box)
        return None
    return Mark(mark.id, category, box, bool(mark.iscrowd))
