"""FiftyOne: a JSON file with classes, and for each image one class or boxes in fractions of its sides."""

from pathlib import Path
from typing import Any

from sightline.importers.files import read_json
from sightline.importers.model import (
    Box,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    in_order,
    mapping,
    text_of,
)
from sightline.importers.shapes import four_of
from sightline.plurals import counted


def is_fiftyone(content: object) -> bool:
    """Whether a JSON value is FiftyOne's."""
    found = mapping(content)
    return isinstance(found.get("labels"), dict) and (
        found.get("classes") is None or isinstance(found["classes"], list)
    )


def read(file: Path) -> Imported:
    """The file; ImportFault with every image at fault. Images are named without their extensions."""
    content = mapping(read_json(file))
    if not is_fiftyone(content):
        raise ImportFault(f"{file} is not in FiftyOne's form: `labels` by image, and a list of `classes`")
    classes = [text_of(name) for name in content.get("classes") or ()]
    faults: list[str] = []
    images = tuple(_image(name, value, classes, faults) for name, value in mapping(content.get("labels")).items())
    if faults:
        raise ImportFault(f"{file}: the labels of {counted(len(faults), 'image')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{file} has no images in FiftyOne's form")
    detection = any(image.boxes for image in images)
    return Imported(Format.FIFTYONE, file, file.parent, images, in_order(images, classes), detection)


def _image(name: str, value: object, classes: list[str], faults: list[str]) -> LabelledImage:
    value = mapping(value).get("label", value)  # which a confidence may be beside
    if not isinstance(value, list | dict):
        label = _named(value, classes)
        if not label and value is not None:
            faults.append(f"{name}: {value!r} is not in the list of {counted(len(classes), 'class', 'classes')}")
        return LabelledImage(name, (label,) if label else (), id=name)
    boxes: list[Box] = []
    for number, mark in enumerate(_listed(value), 1):
        box = four_of(mapping(mark).get("bounding_box"))
        label = _named(mapping(mark).get("label"), classes)
        if label and box:
            boxes.append(Box(label, *box))
        else:
            faults.append(f"{name}, object {number}: it lacks a label, or one of four numbers in bounding_box")
    return LabelledImage(name, boxes=tuple(boxes), id=name)


def _listed(value: object) -> list[Any]:
    """The boxes, which may be in a field."""
    boxes = mapping(value).get("detections") if isinstance(value, dict) else value
    return list(boxes) if isinstance(boxes, list) else [] if boxes is None else [boxes]


def _named(value: object, classes: list[str]) -> str:
    """A class by its number, or by its name."""
    if isinstance(value, int) and not isinstance(value, bool) and classes:
        return classes[value] if 0 <= value < len(classes) else ""
    return text_of(value)
