"""VGG Image Annotator: a JSON file with the regions of every image in pixels, or with attributes of whole images."""

import json
from collections.abc import Mapping, Sequence
from math import degrees
from pathlib import Path
from typing import Any

from sightline.importers import via3
from sightline.importers.files import read_json
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
    text_of,
)
from sightline.importers.shapes import OUTLINES, Xywh, around, four_of, points_of, within
from sightline.importers.table import rows_of
from sightline.plurals import counted

LABELS = (
    "label",
    "class",
    "category",
    "name",
    "type",
    "object",
    "tag",
)  # attributes that are labels, the likeliest first
OWN = ("caption", "public_domain", "image_url", "image_quality")  # attributes that new projects have
NO_AREA = ("point", "")


def entries(content: object) -> list[dict[str, Any]]:
    """The images of a project or of exported annotations; nothing for any other JSON."""
    found = mapping(content)
    listed = objects(list(mapping(found.get("_via_img_metadata") or found).values()))
    return listed if listed and all("filename" in one and "regions" in one for one in listed) else via3.entries(content)


def read(file: Path) -> Imported:
    """The file; ImportFault with every region at fault."""
    notes, faults = Notes(), list[str]()
    listed = _rows(file) if file.suffix.lower() == ".csv" else entries(read_json(file))
    images = tuple(_image(entry, notes, faults) for entry in listed)
    if faults:
        fix = f"name the class of each region in an attribute that is called {' or '.join(LABELS[:2])}"
        raise ImportFault(f"{file}: {counted(len(faults), 'region')} cannot be read", faults, fix=fix)
    if not images:
        raise ImportFault(f"{file} lists no images in VIA's form")
    images, detection = of_one_kind(images, notes, "attributes of whole images are left out: there are regions too")
    return Imported(Format.VIA, file, file.parent, images, in_order(images), detection, notes.all())


def is_table(head: Sequence[str]) -> bool:
    """Whether a CSV file has VIA's header."""
    return {"filename", "region_shape_attributes", "region_attributes"} <= set(head)


def _rows(file: Path) -> list[dict[str, Any]]:
    """The images of a CSV file, which has a line per region."""
    head, *rows = rows_of(file)
    images: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, 2):
        cells = dict(zip(head, row, strict=False))
        try:
            shape, region, whole = (
                json.loads(cells.get(name) or "{}")
                for name in ("region_shape_attributes", "region_attributes", "file_attributes")
            )
        except ValueError as error:
            raise ImportFault(f"{file}, line {number}: an attribute cannot be read as JSON: {error}") from None
        name = cells.get("filename", "")
        image = images.setdefault(name, {"filename": name, "regions": [], "file_attributes": whole})
        if shape:
            image["regions"].append({"shape_attributes": shape, "region_attributes": region})
    return list(images.values())


def _image(entry: dict[str, Any], notes: Notes, faults: list[str]) -> LabelledImage:
    name, regions, boxes = text_of(entry.get("filename")), entry["regions"], list[Box]()
    listed = objects(regions) or objects(list(mapping(regions).values()))  # version 1 numbers them in an object
    for number, region in enumerate(listed, 1):
        shape = mapping(region.get("shape_attributes"))
        kind = text_of(shape.get("name"))
        label = _label(mapping(region.get("region_attributes")))
        if kind in NO_AREA:
            notes.count(f"left out: {{count:region|regions}} of the kind {kind or 'none'}")
        elif not label:
            faults.append(f"{name}, region {number}: it is not clear which of its attributes is its class")
        elif found := _around(shape, kind, notes):
            boxes.append(Box(label, *found))
        else:
            faults.append(f"{name}, region {number} ({label}): a {kind} lacks a number")
    label = _label(mapping(entry.get("file_attributes")))
    return LabelledImage(name, (label,) if label else (), tuple(boxes), id=name)


def _label(attributes: Mapping[str, Any]) -> str:
    """The attribute that is a label, or the only one that is set; a checkbox counts by its only tick."""
    texts = {name.strip().lower(): _text(value) for name, value in attributes.items() if name not in OWN}
    set_ = {name: text for name, text in texts.items() if text}
    named = next((set_[name] for name in LABELS if name in set_), "")
    return named or (next(iter(set_.values())) if len(set_) == 1 else "")


def _text(value: object) -> str:
    ticked = [name for name, is_set in mapping(value).items() if is_set is True]
    return ticked[0] if len(ticked) == 1 else text_of(value)


def _around(shape: Mapping[str, Any], kind: str, notes: Notes) -> Xywh | None:
    if kind in ("polygon", "polyline"):
        notes.count(OUTLINES)
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        pairs = zip(xs, ys, strict=False) if isinstance(xs, list) and isinstance(ys, list) else ()
        return around(points_of([list(pair) for pair in pairs]))
    wanted = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
    }
    values = four_of([shape.get(side) for side in wanted.get(kind, ())])
    if values is None or kind == "rect":
        return values
    notes.count(OUTLINES)
    return within(*values, degrees(number_of(shape.get("theta")) or 0.0))
