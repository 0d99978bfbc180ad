"""FiftyOne: a JSON file with classes, and for each image one class or boxes in fractions of its sides."""

from pathlib import Path

from sightline.importers.files import read_json
from sightline.importers.model import (
    Box,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    in_order,
    mapping,
    objects,
    text_of,
)
from sightline.importers.shapes import four_of


def is_fiftyone(content: object) -> bool:
    """Whether a JSON value is FiftyOne's."""
    found = mapping(content)
    return isinstance(found.get("labels"), dict) and (
        found.get("classes") is None or isinstance(found["classes"], list)
    )


def read(file: Path) -> Imported:
    """The file; ImportFault with every image at fault. Images are named without their extensions."""
    content = mapping(read_json(file))
    classes = [text_of(name) for name in content.get("classes") or ()]
    faults: list[str] = []
    images = tuple(_image(name, value, classes, faults) for name, value in mapping(content.get("labels")).items())
    if faults:
        raise ImportFault(f"{file}: the labels of {len(faults)} images cannot be read", faults)
    if not images:
        raise ImportFault(f"{file} has no images in FiftyOne's form")
    detection = any(image.boxes for image in images)
    return Imported(Format.FIFTYONE, file, file.parent, images, in_order(images, classes), detection)


def _image(name: str, value: object, classes: list[str], faults: list[str]) -> LabelledImage:
    if not isinstance(value, list | dict):
        label = _named(value, classes)
        if not label and value is not None:
            faults.append(f"{name}: {value!r} is none of the {len(classes)} classes")
        return LabelledImage(name, (label,) if label else (), id=name)
    boxes: list[Box] = []
    for number, mark in enumerate(objects(value) or objects(mapping(value).get("detections")), 1):
        box = four_of(mark.get("bounding_box"))
        label = _named(mark.get("label"), classes)
        if label and box:
            boxes.append(Box(label, *box))
        else:
            faults.append(f"{name}, object {number}: it lacks a label, or one of four numbers in bounding_box")
    return LabelledImage(name, boxes=tuple(boxes), id=name)


def _named(value: object, classes: list[str]) -> str:
    """A class by its number, or by its name."""
    if isinstance(value, int) and not isinstance(value, bool) and classes:
        return classes[value] if 0 <= value < len(classes) else ""
    return text_of(value)
