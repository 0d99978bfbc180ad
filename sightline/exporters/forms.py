"""The files of each form: COCO, YOLO, Pascal VOC, a folder per class. The importers read what is written here."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree as ET

from sightline.exporters.model import Box, Export, ExportFault, ExportFormat, Image, Snapshot
from sightline.exporters.names import Paths, safe_part, safe_path, with_suffix
from sightline.plurals import counted

ANNOTATIONS = "annotations.json"
YAML = "data.yaml"
NAMED = 10  # files with other names in notes
DECIMALS = 9  # of YOLO's fractions: far below a thousandth of a pixel


def export(snapshot: Snapshot, form: ExportFormat) -> Export:
    """The files of a dataset in a form; ExportFault if the form cannot express it."""
    forms: dict[ExportFormat, Callable[[Snapshot], Export]] = {
        ExportFormat.COCO: _coco,
        ExportFormat.YOLO: _yolo,
        ExportFormat.VOC: _voc,
        ExportFormat.FOLDERS: _folders,
    }
    boxes = form in (ExportFormat.YOLO, ExportFormat.VOC)
    if boxes and not snapshot.detection:
        raise ExportFault(f"{form} is for boxes; {snapshot.dataset} has none", fix="use --format folders or coco")
    if form is ExportFormat.FOLDERS and snapshot.detection:
        raise ExportFault(f"folders have no boxes; {snapshot.dataset} has", fix="use --format coco, yolo or voc")
    return forms[form](snapshot)


def _coco(snapshot: Snapshot) -> Export:
    paths, images, annotations = Paths(ANNOTATIONS), dict[int, str](), list[dict[str, Any]]()
    listed: list[dict[str, Any]] = []
    for image in snapshot.images:
        images[image.id] = path = paths.add(with_suffix(safe_path(image.file_name), image.extension))
        listed.append({"id": image.id, "file_name": path, "width": image.width, "height": image.height})
        for mark in _marks(image):
            annotations.append({"id": len(annotations) + 1, "image_id": image.id, **mark})
    categories = [{"id": number, "name": name} for number, name in snapshot.categories.items()]
    content = {
        "info": {"description": f"{snapshot.dataset} {snapshot.digest}"},
        "images": listed,
        "annotations": annotations,
        "categories": categories,
    }
    renamed = [image for image in snapshot.images if images[image.id] != image.file_name]
    notes = [f"{image.file_name!r} is {images[image.id]!r}" for image in renamed[:NAMED]]
    if len(renamed) > NAMED:
        notes.append(f"other names too: {counted(len(renamed) - NAMED, 'image')} more")
    return Export(images, {ANNOTATIONS: json.dumps(content, ensure_ascii=False).encode()}, notes)


def _marks(image: Image) -> Iterator[dict[str, Any]]:
    if image.category_id is not None:
        yield {"category_id": image.category_id}
    for box in image.boxes:
        sides = [_plain(value) for value in box[1:5]]
        crowd = {"iscrowd": int(box.is_crowd), "area": _plain(box.width * box.height)}
        yield {"category_id": box.category_id, "bbox": sides, **crowd}


def _plain(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _yolo(snapshot: Snapshot) -> Export:
    numbers = {category: number for number, category in enumerate(snapshot.categories)}
    # JSON's strings are YAML's too.
    names = [f"  {numbers[id_]}: {json.dumps(name, ensure_ascii=False)}" for id_, name in snapshot.categories.items()]
    head = [f"# {snapshot.dataset} {snapshot.digest}", "# Ultralytics also needs `val`: the images to validate on."]
    yaml = [*head, "path: .", "train: images", "names:", *names, ""]
    images, documents = dict[int, str](), {YAML: "\n".join(yaml).encode()}
    paths = Paths(by_stem=True)
    for image in snapshot.images:
        name = paths.add(_flat(image))
        images[image.id] = f"images/{name}"
        lines = [f"{numbers[box.category_id]} {_fractions(box, image)}\n" for box in image.boxes if not box.is_crowd]
        documents[f"labels/{name.rpartition('.')[0]}.txt"] = "".join(lines).encode()
    return Export(images, documents, _without_crowds(snapshot))


def _fractions(box: Box, image: Image) -> str:
    across, down = box.x + box.width / 2, box.y + box.height / 2
    values = across / image.width, down / image.height, box.width / image.width, box.height / image.height
    return " ".join(f"{value:.{DECIMALS}f}" for value in values)


def _voc(snapshot: Snapshot) -> Export:
    images, documents, paths = dict[int, str](), dict[str, bytes](), Paths(by_stem=True)
    for image in snapshot.images:
        name = paths.add(_flat(image))
        images[image.id] = f"JPEGImages/{name}"
        documents[f"Annotations/{name.rpartition('.')[0]}.xml"] = _annotation(image, name, snapshot)
    return Export(images, documents, _without_crowds(snapshot))


def _annotation(image: Image, name: str, snapshot: Snapshot) -> bytes:
    root = ET.Element("annotation")
    ET.SubElement(root, "folder").text = "JPEGImages"
    ET.SubElement(root, "filename").text = name
    size = ET.SubElement(root, "size")
    for side, pixels in (("width", image.width), ("height", image.height), ("depth", 3)):
        ET.SubElement(size, side).text = str(pixels)
    for box in image.boxes:
        if box.is_crowd:
            continue
        found = ET.SubElement(root, "object")
        ET.SubElement(found, "name").text = snapshot.categories[box.category_id]
        for flag in ("truncated", "difficult"):
            ET.SubElement(found, flag).text = "0"
        corners = ET.SubElement(found, "bndbox")
        edges = {"xmin": box.x, "ymin": box.y, "xmax": box.x + box.width, "ymax": box.y + box.height}
        for corner, value in edges.items():
            ET.SubElement(corners, corner).text = str(_plain(value))
    ET.indent(root)
    return ET.tostring(root, "utf-8", xml_declaration=True)


def _folders(snapshot: Snapshot) -> Export:
    folders, taken = dict[int, str](), Paths()
    for number, name in snapshot.categories.items():
        folders[number] = taken.add(safe_part(name))
    notes = [
        f"the category {name!r} is the folder {folders[number]!r}"
        for number, name in snapshot.categories.items()
        if folders[number] != name
    ]
    images, paths = dict[int, str](), Paths()
    for image in snapshot.images:
        if image.category_id is not None:
            images[image.id] = paths.add(f"{folders[image.category_id]}/{_flat(image)}")
    return Export(images, {}, notes)


def _flat(image: Image) -> str:
    """The image's name without its folders, which mean something else in most forms."""
    return with_suffix(safe_path(image.file_name).rpartition("/")[2], image.extension)


def _without_crowds(snapshot: Snapshot) -> list[str]:
    count = sum(box.is_crowd for image in snapshot.images for box in image.boxes)
    return [f"boxes around groups (iscrowd) are left out: {count}; COCO has them"] if count else []
