"""A Custom Vision project, as its training API lists tagged images: `tags`, or `regions` in fractions of the sides."""

from pathlib import Path
from typing import Any

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
    objects,
    text_of,
    without_labels,
)
from sightline.importers.names import path_in_url
from sightline.importers.shapes import four_of
from sightline.plurals import counted

SIDES = ("left", "top", "width", "height")
MARKS = ("originalImageUri", "resizedImageUri", "thumbnailUri", "OriginalImageUri", "DownloadUri")


def entries(content: object) -> list[dict[str, Any]]:
    """The images in a response, or in one that a script wrapped into an object; nothing for anything else."""
    for listed in (content, mapping(content).get("images"), mapping(content).get("value")):
        found = objects(listed)
        if found and ("regions" in found[0] or "tags" in found[0]) and any(key in found[0] for key in (*MARKS, "id")):
            return found
    return []


def read(file: Path) -> Imported:
    """The file; ImportFault with every region at fault. The images are looked for by their names, then by their ids."""
    notes, faults = Notes(), list[str]()
    images = tuple(_image(entry, notes, faults) for entry in entries(read_json(file)))
    if faults:
        raise ImportFault(f"{file}: {counted(len(faults), 'region')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{file} lists no images with tags or regions")
    detection = any(image.boxes for image in images)
    if detection:
        images = without_labels(images)
    return Imported(Format.CUSTOM_VISION, file, file.parent, images, in_order(images), detection, notes.all())


def _image(entry: dict[str, Any], notes: Notes, faults: list[str]) -> LabelledImage:
    uris = [text_of(entry.get(mark)) for mark in MARKS if text_of(entry.get(mark))]
    in_uri = [path_in_url(uri).rpartition("/")[2] for uri in uris[:1]]
    names = [text_of(entry.get(key)) for key in ("name", "fileName", "file_name")]
    identity = text_of(entry.get("id"))
    names = [name for name in (*names, identity, *in_uri) if name]
    labels = tuple(dict.fromkeys(name for tag in objects(entry.get("tags")) if (name := text_of(tag.get("tagName")))))
    boxes: list[Box] = []
    for region in objects(entry.get("regions")):
        box, tag = four_of([region.get(side) for side in SIDES]), text_of(region.get("tagName"))
        if box and tag:
            boxes.append(Box(tag, *box))
        else:
            region_id = text_of(region.get("regionId"))
            faults.append(f"image {identity}, region {region_id}: it lacks one of {', '.join(SIDES)}, tagName")
    if not labels and not boxes:
        notes.count("{count:image has|images have} neither tags nor regions")
    first, *others = names or [""]
    return LabelledImage(first, labels, tuple(boxes), other_names=tuple(others), id=identity)
