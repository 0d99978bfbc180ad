"""Datumaro, which CVAT exports too: a JSON file per subset with its items, shapes in pixels or labels."""

from pathlib import Path
from typing import Any

from sightline.importers.files import files_of, read_json, subfolders
from sightline.importers.model import (
    Box,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    Xywh,
    in_order,
    mapping,
    number_of,
    objects,
    of_one_kind,
    split_of,
    text_of,
)
from sightline.importers.shapes import OUTLINES, around, four_of, pairs_of
from sightline.plurals import counted

OUTLINED = ("polygon", "polyline")


def is_datumaro(content: object) -> bool:
    """Whether a JSON value is Datumaro's."""
    found = mapping(content)
    return isinstance(found.get("items"), list) and isinstance(found.get("categories"), dict)


def files_in(folder: Path) -> list[Path]:
    """Its files in a folder, or in the folder's `annotations`; ImportFault if one beside them cannot be read."""
    places = [folder, *(one for one in subfolders(folder) if one.name.lower() == "annotations")]
    found, damaged = list[Path](), list[ImportFault]()
    for file in (file for place in places for file in files_of(place, ".json")):
        try:
            if is_datumaro(read_json(file)):
                found.append(file)
        except ImportFault as fault:
            damaged.append(fault)
    if found and damaged:
        raise damaged[0]
    return found


def read(source: Path) -> Imported:
    """A file, or all in a folder; ImportFault with every shape at fault."""
    folder = source if source.is_dir() else source.parent
    if source.is_file() and folder.name.lower() == "annotations":
        folder = folder.parent
    notes, faults, images, declared = Notes(), list[str](), list[LabelledImage](), dict[str, None]()
    for file in files_in(source) if source.is_dir() else [source]:
        content = mapping(read_json(file))
        labels = objects(mapping(mapping(content.get("categories")).get("label")).get("labels"))
        names = [text_of(label.get("name")) for label in labels]
        declared |= dict.fromkeys(names)
        images += (_image(item, names, file.stem, notes, faults) for item in objects(content.get("items")))
    if faults:
        raise ImportFault(f"{source}: {counted(len(faults), 'annotation')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{source} lists no items in Datumaro's form")
    found, detection = of_one_kind(images, notes, "labels of whole images are left out: there are shapes too")
    return Imported(Format.DATUMARO, source, folder, found, in_order(found, [*declared]), detection, notes.all())


def _image(item: dict[str, Any], names: list[str], subset: str, notes: Notes, faults: list[str]) -> LabelledImage:
    """Images with the same name in several subsets are in folders of these."""
    identity, labels, boxes = text_of(item.get("id")), list[str](), list[Box]()
    for number, mark in enumerate(objects(item.get("annotations")), 1):
        index, kind = number_of(mark.get("label_id")), text_of(mark.get("type"))
        label = names[int(index)] if index is not None and 0 <= index < len(names) else ""
        if kind not in ("label", "bbox", *OUTLINED):
            notes.count(f"left out: {{count:annotation|annotations}} of the type {kind}")
        elif not label:
            faults.append(
                f"{identity}, annotation {number}: its label_id is not in the list of {counted(len(names), 'label')}"
            )
        elif kind == "label":
            labels.append(label)
        elif box := _around(mark, kind, notes):
            boxes.append(Box(label, *box))
        else:
            faults.append(f"{identity}, annotation {number} ({label}): a {kind} lacks a number")
    media = mapping(item.get("image") or item.get("media"))
    size: Any = media.get("size")
    height, width = (
        (number_of(one) or None for one in size) if isinstance(size, list) and len(size) == 2 else (None,) * 2
    )
    name = text_of(media.get("path")) or identity
    others, split = (identity, f"images/{subset}/{name}"), split_of(subset)
    return LabelledImage(name, tuple(labels), tuple(boxes), split, width, height, other_names=others, id=identity)


def _around(mark: dict[str, Any], kind: str, notes: Notes) -> Xywh | None:
    if kind == "bbox":
        return four_of(mark.get("bbox"))
    notes.count(OUTLINES)
    return around(pairs_of(mark.get("points")))
