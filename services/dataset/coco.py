"""The parts of a COCO file, and how untrusted bytes become them or findings that say what is wrong where."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from services.dataset.boxes import Xywh, read_box
from services.dataset.findings import FindingLog
from services.dataset.repair import repaired
from services.kit.callers import DEFAULT_PROJECT
from services.kit.reach import NOTHING_OPEN, Reach
from sightline.blob_keys import MAX_KEY_BYTES, MAX_PART_BYTES, fault_of_key

BLOCK_BYTES = 1 << 18  # of a file, read at once; they fit into the processor's cache
MAX_BOX_BYTES = 1024  # of a bbox, as JSON
OBJECTS_PER_ENTRY = 3  # JSON objects in a file for each image, annotation and category that it may have

_DRIVE = re.compile(r"[A-Za-z]:/")
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


_decoder = msgspec.json.Decoder(CocoFile)
_box_decoder = msgspec.json.Decoder(tuple[float, float, float, float])


def objects_at_most(path: Path) -> int:
    """No fewer than the JSON objects in the file, counted without parsing it."""
    with path.open("rb") as source:
        return sum(block.count(b"{") for block in iter(lambda: source.read(BLOCK_BYTES), b""))


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
        ordinary = len(prefix) + MAX_PART_BYTES <= MAX_KEY_BYTES and not fault_of_key(prefix + "a")
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
