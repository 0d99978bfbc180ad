"""CVAT for images 1.1: one XML file with the shapes and tags of every image, in pixels."""

from pathlib import Path
from xml.etree.ElementTree import Element

from sightline.importers.files import read_xml
from sightline.importers.model import (
    Box,
    BoxForm,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    in_order,
    number_of,
    of_one_kind,
    split_of,
)
from sightline.importers.shapes import OUTLINES, Xywh, around, four_of, turned, within
from sightline.plurals import counted


def looks_like(file: Path) -> bool:
    """Whether an XML file is CVAT's."""
    return read_xml(file).tag == "annotations"


def read(file: Path) -> Imported:
    """The file; ImportFault with every shape at fault."""
    root = read_xml(file)
    if root.find("track") is not None:
        raise ImportFault(f"{file} is CVAT's export of a video", fix='export it as "CVAT for images"')
    notes, faults = Notes(), list[str]()
    images = tuple(_image(each, notes, faults) for each in root.iter("image"))
    if faults:
        raise ImportFault(f"{file}: {counted(len(faults), 'shape')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{file} lists no images")
    declared = [name for each in root.iter("label") if (name := (each.findtext("name") or "").strip())]
    tagged = sum(bool(image.labels) for image in images)
    images, detection = of_one_kind(
        images, notes, f"the tags of {counted(tagged, 'image')} are left out: the file has boxes too"
    )
    categories = in_order(images, list(dict.fromkeys(declared)))
    return Imported(Format.CVAT, file, file.parent, images, categories, detection, notes.all())


def _image(each: Element, notes: Notes, faults: list[str]) -> LabelledImage:
    name = each.get("name") or ""
    labels: list[str] = []
    boxes: list[Box] = []
    for shape in each:
        label = (shape.get("label") or "").strip()
        if shape.tag not in ("tag", "box", "polygon", "polyline", "ellipse", "mask"):
            notes.count(f"left out: {{count:shape|shapes}} of the kind {shape.tag}")
        elif not label:
            faults.append(f"image {each.get('id')}, {name}: a {shape.tag} has no label")
        elif shape.tag == "tag":
            labels.append(label)
        elif found := _around(shape, notes):
            boxes.append(Box(label, *found))
        else:
            faults.append(f"image {each.get('id')}, {name}: a {shape.tag} ({label}) lacks a coordinate")
    width, height = (number_of(each.get(side)) or None for side in ("width", "height"))
    return LabelledImage(
        name, tuple(labels), tuple(boxes), split_of(each.get("subset") or ""), width, height, id=each.get("id")
    )


def _around(shape: Element, notes: Notes) -> Xywh | None:
    wanted = {
        "box": ("xtl", "ytl", "xbr", "ybr"),
        "ellipse": ("cx", "cy", "rx", "ry"),
        "mask": ("left", "top", "width", "height"),
    }.get(shape.tag)
    if wanted is None:
        notes.count(OUTLINES)
        pairs = [point.split(",") for point in (shape.get("points") or "").split(";")]
        numbers = [(number_of(pair[0]), number_of(pair[1])) for pair in pairs if len(pair) == 2]
        return around((x, y) for x, y in numbers if x is not None and y is not None)
    values = four_of([shape.get(name) for name in wanted])
    if values is None:
        return None
    one, two, three, four = values
    if shape.tag == "mask":
        notes.count(OUTLINES)
        return one, two, three, four
    degrees = number_of(shape.get("rotation")) or 0.0
    if shape.tag == "ellipse":
        notes.count(OUTLINES)
        return within(*values, degrees)
    box = BoxForm.XYXY.to_xywh(one, two, three, four)
    if not degrees:
        return box
    notes.count("turned into upright boxes: {count:rotated box|rotated boxes}")
    return around(turned(box, degrees, ((one + three) / 2, (two + four) / 2)))
