"""A snapshot as it is exported, and what an export consists of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class ExportFormat(StrEnum):
    """The forms in which a dataset can be exported; the values are those of `--format`."""

    COCO = "coco"
    YOLO = "yolo"
    VOC = "voc"
    FOLDERS = "folders"


class ExportFault(ValueError):
    """An export cannot be written; nothing was written. `fix` says what to do."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


class Box(NamedTuple):
    """A labelled box in pixels."""

    category_id: int
    x: float
    y: float
    width: float
    height: float
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a snapshot."""

    id: int
    file_name: str  # as its annotation file names it: any text
    width: int
    height: int
    size_bytes: int
    sha256: str
    extension: str = ""  # jpg or png; empty if the service does not say
    category_id: int | None = None  # of the whole image
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The images of a dataset and their annotations."""

    dataset: str
    digest: str
    detection: bool
    categories: Mapping[int, str]  # names by id, in order
    images: Sequence[Image]  # by id
    version: int = 0  # of the dataset; 0 for the current one


@dataclass(frozen=True, slots=True)
class Export:
    """The files of an export; all paths are safe, and different on every file system."""

    images: Mapping[int, str]  # the path of each image, by its id
    documents: Mapping[str, bytes]  # the other files, by path
    notes: Sequence[str] = field(default=())  # what the form cannot express
