"""LabelMe: a JSON file per image with its shapes in pixels, or with flags for the whole image."""

import math
from itertools import islice
from pathlib import Path
from typing import Any

from sightline.importers.files import json_files, parsed, read_json
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
from sightline.importers.per_image import LOOKED_AT, names_for
from sightline.importers.shapes import OUTLINES, Xywh, around, points_of, within
from sightline.plurals import counted

NO_AREA = ("point", "points", "line")


def is_labelme(content: object) -> bool:
    """Whether a JSON value is LabelMe's."""
    found = mapping(content)
    return isinstance(found.get("shapes"), list) and "imagePath" in found


def looks_like(folder: Path) -> bool:
    """Whether one of the first JSON files below the folder is LabelMe's."""
    return any(is_labelme(parsed(folder / name)) for name in islice(json_files(folder), LOOKED_AT))


def read(source: Path) -> Imported:
    """The files in a folder, or one file; ImportFault with every shape at fault."""
    folder = source if source.is_dir() else source.parent
    names = json_files(folder) if source.is_dir() else iter([source.name])
    notes, faults, images = Notes(), list[str](), list[LabelledImage]()
    for name in names:
        content = mapping(read_json(folder / name))
        if is_labelme(content):
            images.append(_image(content, name, notes, faults))
        else:
            notes.count("left out: {count:JSON file that is|JSON files that are} not LabelMe's")
    if faults:
        raise ImportFault(f"{source}: {counted(len(faults), 'shape')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{source} has no annotations in LabelMe's form")
    found, detection = of_one_kind(images, notes, "flags of whole images are left out: there are shapes too")
    return Imported(Format.LABELME, source, folder, found, in_order(found), detection, notes.all())


def _image(content: Any, name: str, notes: Notes, faults: list[str]) -> LabelledImage:
    """The image's path is relative to the file's folder, but often one of the machine where it was drawn."""
    found, *others = names_for(name, text_of(content.get("imagePath")))
    boxes: list[Box] = []
    for number, shape in enumerate(objects(content.get("shapes")), 1):
        label, kind = text_of(shape.get("label")), text_of(shape.get("shape_type")) or "polygon"
        if kind in NO_AREA:
            notes.count(f"left out: {{count:shape|shapes}} of the kind {kind}")
        elif not label:
            faults.append(f"{name}, shape {number}: it has no label")
        elif box := _around(shape, kind, notes):
            boxes.append(Box(label, *box))
        else:
            faults.append(f"{name}, shape {number} ({label}): a {kind} lacks a point")
    parents = [part for part in Path(name).parts[:-1] if split_of(part)]
    return LabelledImage(
        found,
        tuple(flag for flag, is_set in mapping(content.get("flags")).items() if is_set is True and flag.strip()),
        tuple(boxes),
        split_of(parents[0]) if parents else "",
        number_of(content.get("imageWidth")) or None,
        number_of(content.get("imageHeight")) or None,
        other_names=tuple(others),
        id=name,
    )


def _around(shape: Any, kind: str, notes: Notes) -> Xywh | None:
    points = points_of(shape.get("points"))
    if kind == "rectangle" or len(points) < 2:
        return around(points) if len(points) >= 2 else None
    notes.count(OUTLINES)
    if kind == "circle":
        (x, y), (on_x, on_y) = points[:2]
        radius = math.hypot(on_x - x, on_y - y)
        return within(x, y, radius, radius)
    return around(points)
