"""CreateML, as Roboflow exports it too: JSON with the label of every image, or boxes by their centres in pixels."""

from pathlib import Path
from typing import Any

from sightline.importers.files import read_json
from sightline.importers.model import (
    Box,
    BoxForm,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    in_order,
    mapping,
    objects,
    of_one_kind,
    text_of,
)
from sightline.importers.shapes import four_of
from sightline.plurals import counted

SIDES = ("x", "y", "width", "height")
MARKS = ("annotations", "annotation")


def entries(content: object) -> list[dict[str, Any]]:
    """The images; nothing for any other JSON."""
    found = objects(content)
    first = found[0] if found else {}
    return found if _name(first) and any(isinstance(first.get(key), list | str) for key in MARKS) else []


def read(file: Path) -> Imported:
    """The file; ImportFault with every box at fault."""
    notes, faults = Notes(), list[str]()
    read_images = [_image(entry, faults) for entry in entries(read_json(file))]
    if faults:
        raise ImportFault(f"{file}: {counted(len(faults), 'box', 'boxes')} cannot be read", faults)
    if not read_images:
        raise ImportFault(f"{file} lists no images in CreateML's form")
    images, detection = of_one_kind(read_images, notes, "labels of whole images are left out: there are boxes too")
    return Imported(Format.CREATEML, file, file.parent, images, in_order(images), detection, notes.all())


def _image(entry: dict[str, Any], faults: list[str]) -> LabelledImage:
    name, labels, boxes = _name(entry), list[str](), list[Box]()
    for number, mark in enumerate([mark for key in MARKS for mark in _listed(entry.get(key))], 1):
        written = mapping(mark)
        centre = mapping(written.get("coordinates"))
        sides = four_of([centre.get(side) for side in SIDES])
        label = text_of(written.get("label")) or text_of(mark)
        if label and sides:
            boxes.append(Box(label, *BoxForm.CXCYWH.to_xywh(*sides)))
        elif label and "coordinates" not in written:
            labels.append(label)
        else:
            faults.append(f"{name}, annotation {number}: it lacks its label, or one of {', '.join(SIDES)}")
    return LabelledImage(name, tuple(labels), tuple(boxes), id=name)


def _listed(value: object) -> list[Any]:
    """What a JSON array holds; a single value may stand without it."""
    return list(value) if isinstance(value, list) else [] if value in (None, "") else [value]


def _name(entry: dict[str, Any]) -> str:
    return text_of(entry.get("image")) or text_of(entry.get("imagefilename"))
