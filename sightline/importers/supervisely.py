"""Supervisely: a project or dataset with `ann/IMAGE.json` for each `img/IMAGE`, shapes in pixels or tags."""

from pathlib import Path

from sightline.importers.files import read_json, walk
from sightline.importers.model import (
    Box,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    in_order,
    mapping,
    number_of,
    objects,
    of_one_kind,
    split_of,
    text_of,
)
from sightline.importers.shapes import OUTLINES, around, points_of
from sightline.plurals import counted

OUTLINED = ("polygon", "line")


def looks_like(folder: Path) -> bool:
    """Whether there is a folder `ann` with a JSON file that is named like an image."""
    return next(iter(_files(folder)), None) is not None


def read(folder: Path) -> Imported:
    """The datasets in a folder; ImportFault with every shape at fault."""
    notes, faults = Notes(), list[str]()
    images = tuple(_image(folder, name, notes, faults) for name in _files(folder))
    if faults:
        raise ImportFault(f"{folder}: {counted(len(faults), 'shape')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{folder} has no annotations in Supervisely's form")
    images, detection = of_one_kind(images, notes, "tags of whole images are left out: there are shapes too")
    return Imported(Format.SUPERVISELY, folder, folder, images, in_order(images), detection, notes.all())


def _files(folder: Path) -> list[str]:
    names = (name for name in walk(folder) if name.lower().endswith(".json"))
    return [name for name in names if Path(name).parent.name == "ann" and Path(Path(name).stem).suffix]


def _image(folder: Path, name: str, notes: Notes, faults: list[str]) -> LabelledImage:
    content, boxes = mapping(read_json(folder / name)), list[Box]()
    for number, shape in enumerate(objects(content.get("objects")), 1):
        label, kind = text_of(shape.get("classTitle")), text_of(shape.get("geometryType")) or "rectangle"
        points = points_of(mapping(shape.get("points")).get("exterior"))
        if kind != "rectangle" and kind not in OUTLINED:
            notes.count(f"left out: {{count:object|objects}} of the kind {kind}")
        elif label and len(points) >= 2 and (found := around(points)):
            boxes.append(Box(label, *found))
            if kind in OUTLINED:
                notes.count(OUTLINES)
        else:
            faults.append(f"{name}, object {number}: it lacks a classTitle, or two points")
    place = Path(name).parent.parent
    size = mapping(content.get("size"))
    return LabelledImage(
        (place / "img" / Path(name).stem).as_posix(),
        tuple(tag for each in objects(content.get("tags")) if (tag := text_of(each.get("name")))),
        tuple(boxes),
        split_of(place.name),
        number_of(size.get("width")) or None,
        number_of(size.get("height")) or None,
        id=name,
    )
