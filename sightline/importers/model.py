"""What every importer returns: images with their labels or boxes, and what was noticed while reading."""

import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from sightline.plurals import counted

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".ico", ".tif", ".tiff", ".mpo"}
SPLITS = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


_COUNTED = re.compile(r"\{count:([^|}]*)\|([^}]*)\}")
_WORD = re.compile(r"[^\W\d_]+")
_OF_SPLITS = frozenset(("set", "data", "dataset", "images", "image", "imgs", "img", "split", "photos", "seg"))


class Format(StrEnum):
    """The forms in which labelled images come; the values are those of `--format`."""

    COCO = "coco"
    FOLDERS = "folders"
    YOLO = "yolo"
    VOC = "voc"
    CUSTOM_VISION = "custom-vision"
    LABEL_STUDIO = "label-studio"
    CVAT = "cvat"
    LABELME = "labelme"
    VIA = "via"
    VOTT = "vott"
    SUPERVISELY = "supervisely"
    CREATEML = "createml"
    DATUMARO = "datumaro"
    FIFTYONE = "fiftyone"
    SCALABEL = "scalabel"
    LINES = "json-lines"
    CSV = "csv"


TITLES = {
    Format.COCO: "COCO",
    Format.FOLDERS: "a folder per class",
    Format.YOLO: "YOLO",
    Format.VOC: "Pascal VOC",
    Format.CUSTOM_VISION: "Custom Vision",
    Format.LABEL_STUDIO: "Label Studio",
    Format.CVAT: "CVAT for images",
    Format.LABELME: "LabelMe",
    Format.VIA: "VIA",
    Format.VOTT: "VoTT",
    Format.SUPERVISELY: "Supervisely",
    Format.CREATEML: "CreateML",
    Format.DATUMARO: "Datumaro",
    Format.FIFTYONE: "FiftyOne",
    Format.SCALABEL: "Scalabel",
    Format.LINES: "JSON Lines",
    Format.CSV: "CSV",
}


Xywh = tuple[float, float, float, float]


class BoxForm(StrEnum):
    """What the four numbers of a box are; the values are those of `--boxes`."""

    XYWH = "xywh"  # left, top, width, height
    XYXY = "xyxy"  # two opposite corners
    YXYX = "yxyx"  # the same with y before x
    CXCYWH = "cxcywh"  # centre, width, height

    def to_xywh(self, one: float, two: float, three: float, four: float) -> tuple[float, float, float, float]:
        """Left, top, width and height from the four numbers."""
        match self:
            case BoxForm.XYXY:
                return min(one, three), min(two, four), abs(three - one), abs(four - two)
            case BoxForm.YXYX:
                return min(two, four), min(one, three), abs(four - two), abs(three - one)
            case BoxForm.CXCYWH:
                return one - three / 2, two - four / 2, three, four
            case BoxForm.XYWH:
                return one, two, three, four


class ImportFault(ValueError):
    """What was given cannot be read. `faults` has a line each, with the place and what is expected there."""

    def __init__(self, message: str, faults: Sequence[str] = (), *, fix: str = "") -> None:
        super().__init__(message)
        self.message, self.faults, self.fix = message, tuple(faults), fix


class Box(NamedTuple):
    """A labelled box in pixels or fractions of the image's sides: left, top, width, height, or as its image says."""

    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and what is known about it."""

    name: str  # as the export writes it
    labels: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    split: str = ""  # train, val or test, if the export says so
    width: float | None = None  # pixels, if the export says so
    height: float | None = None
    other_names: tuple[str, ...] = ()  # further names for the file, if there is none with the first
    id: object = None  # as in the export
    entry: dict[str, Any] | None = None  # of a COCO file, which this was read from
    box_form: BoxForm = BoxForm.XYWH  # what the numbers of its boxes are


@dataclass(frozen=True, slots=True)
class Document:
    """A COCO file as it is, which is uploaded unchanged except for names that had to be resolved."""

    file: Path
    split: str
    content: dict[str, Any]
    images: tuple[LabelledImage, ...]
    changed: bool = False  # the content is not what the file has
    outlined: Mapping[int, Xywh] = field(
        default_factory=dict[int, Xywh]
    )  # boxes of annotations that have none, by id()


@dataclass(frozen=True, slots=True)
class Imported:
    """An export that was read."""

    format: Format
    source: Path  # what was named
    folder: Path  # names of images are relative to it
    images: tuple[LabelledImage, ...]
    categories: tuple[str, ...]  # in the export's order
    detection: bool  # boxes rather than labels
    notes: tuple[str, ...] = ()
    documents: tuple[Document, ...] = ()  # of COCO: the files
    whole: bool = True  # not only some of its splits

    def only(self, splits: Collection[str]) -> "Imported":
        """The part in these splits; ImportFault if one of them is not there."""
        if absent := [split for split in splits if split not in self.splits]:
            listed = ", ".join(self.splits) or "none"
            problem = f"{self.source} has no split {', '.join(absent)}; it has {listed}"
            raise ImportFault(problem, fix="leave out --split, or name one that it has")
        documents = tuple(document for document in self.documents if document.split in splits)
        images = tuple(one for one in self.images if one.split in splits)
        return replace(self, images=images, documents=documents, whole=False)

    @property
    def splits(self) -> dict[str, int]:
        """The number of images in each split; empty if the export has none."""
        counts: dict[str, int] = {}
        for image in self.images:
            counts[image.split] = counts.get(image.split, 0) + 1
        ordered = {split: counts[split] for split in ("train", "val", "test", "") if split in counts}
        return ordered if set(counts) - {""} else {}

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """The number of images and of annotations of each category."""
        counts = {name: [0, 0] for name in self.categories}
        for image in self.images:
            names = [*image.labels, *(box.label for box in image.boxes)]
            for name in names:
                counts.setdefault(name, [0, 0])[1] += 1
            for name in set(names):
                counts[name][0] += 1
        return {name: (images, annotations) for name, (images, annotations) in counts.items()}


@dataclass(slots=True)
class Notes:
    """Collects what was noticed; repeated things are counted, not listed."""

    texts: list[str] = field(default_factory=list[str])
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, text: str) -> None:
        """Adds a sentence."""
        self.texts.append(text)

    def count(self, text: str, number: int = 1) -> None:
        """Adds to the number that the sentence is about: a template with `{count:image is|images are}`."""
        self.counts[text] = self.counts.get(text, 0) + number

    def all(self) -> tuple[str, ...]:
        """Every sentence."""
        return (*self.texts, *(_filled(text, count) for text, count in self.counts.items()))


def _filled(text: str, count: int) -> str:
    return _COUNTED.sub(lambda noun: counted(count, noun[1], noun[2]), text)


def in_order(images: Sequence[LabelledImage], declared: Sequence[str] = ()) -> tuple[str, ...]:
    """The categories: those that the export declares, then the others by name."""
    used = {name for image in images for name in (*image.labels, *(box.label for box in image.boxes))}
    return (*declared, *sorted(used - set(declared)))


def without_labels(images: Iterable[LabelledImage]) -> tuple[LabelledImage, ...]:
    """The images with their boxes alone: labels of whole images say nothing to a detector."""
    return tuple(replace(image, labels=()) for image in images)


def of_one_kind(images: Iterable[LabelledImage], notes: Notes, left_out: str) -> tuple[tuple[LabelledImage, ...], bool]:
    """The images, and whether they are for detection: one box makes them so, and so does the lack of any label.

    Then labels of whole images are left out, and `left_out` is the note that says so.
    """
    found = tuple(images)
    labelled = any(image.labels for image in found)
    detection = any(image.boxes for image in found) or not labelled
    if detection and labelled:
        notes.add(left_out)
        found = without_labels(found)
    return found, detection


def split_of(name: str) -> str:
    """`train`, `val` or `test` for the usual names of splits, such as `training_set` or `val2017`; or empty."""
    words = [word for word in _WORD.findall(name.lower()) if word not in _OF_SPLITS]
    return SPLITS.get(words[0], "") if len(words) == 1 else ""


def is_image(path: Path) -> bool:
    """Whether the file's name is an image's."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def text_of(value: object) -> str:
    """A label as text: exports write some as numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def number_of(value: object) -> float | None:
    """A number, or a string that is one; None for anything else, and for what is not finite."""
    number = exact_number_of(value)
    return None if number is None else float(number)


def exact_number_of(value: object) -> int | float | None:
    """The finite number that a value means: `7`, `7.0`, `"7"` or `" 7.0 "`; a whole one is exact."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if not isinstance(value, str):
        return _finite(value)
    text = value.strip()
    if not text.isascii() or "_" in text:  # which Python's own numbers may have
        return None
    for read in (int, float):
        try:
            return _finite(read(text))
        except ValueError:
            continue
    return None


def _finite(number: float) -> int | float | None:
    """The number; None if it is more than a `float` holds, which whole numbers of any length in JSON may be."""
    return number if abs(number) <= sys.float_info.max else None


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in a JSON array; nothing for any other value."""
    listed: list[Any] = list(value) if isinstance(value, list) else []
    return [one for one in listed if isinstance(one, dict)]


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object; an empty one for any other value."""
    return value if isinstance(value, dict) else {}
