"""VoTT, Microsoft's Visual Object Tagging Tool: its JSON export, or the JSON file that it keeps for each image."""

from collections.abc import Mapping, Sequence
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
    Xywh,
    in_order,
    mapping,
    number_of,
    objects,
    text_of,
)
from sightline.importers.names import path_in_url
from sightline.importers.per_image import LOOKED_AT
from sightline.importers.shapes import around, four_of, points_of
from sightline.plurals import counted

SIDES = ("left", "top", "width", "height")
UNSEEN = 0  # the state of an image that nobody has opened


def entries(content: object) -> list[dict[str, Any]]:
    """The images of an export; nothing for any other JSON."""
    listed = objects(list(mapping(mapping(content).get("assets")).values()))
    return listed if listed and all(is_asset(one) for one in listed) else []


def is_asset(content: object) -> bool:
    """Whether a JSON value is what VoTT keeps for one image."""
    found = mapping(content)
    return "name" in mapping(found.get("asset")) and isinstance(found.get("regions"), list)


def looks_like(folder: Path) -> bool:
    """Whether one of the first JSON files below the folder is that of an image."""
    return any(is_asset(parsed(folder / name)) for name in islice(json_files(folder), LOOKED_AT))


def read(source: Path) -> Imported:
    """The export, the files in a folder, or one of these; ImportFault with every region at fault.

    An image counts once: a project's folder may also have its export.
    """
    folder = source if source.is_dir() else source.parent
    names = json_files(folder) if source.is_dir() else iter([source.name])
    notes, faults, images = Notes(), list[str](), dict[str, LabelledImage]()
    for content in (read_json(folder / name) for name in names):
        listed = [mapping(content)] if is_asset(content) else entries(content)
        if not listed:
            notes.count("left out: {count:JSON file that is|JSON files that are} not VoTT's")
        for entry in listed:
            asset = mapping(entry["asset"])
            identity = text_of(asset.get("id")) or text_of(asset["name"])
            if number_of(asset.get("state")) == UNSEEN:
                notes.count("left out: {count:image|images} that nobody has opened in VoTT")
            elif identity not in images:
                images[identity] = _image(asset, objects(entry["regions"]), faults)
    if faults:
        raise ImportFault(f"{source}: {counted(len(faults), 'region')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{source} lists no images in VoTT's form", notes.all())
    found = tuple(images.values())
    return Imported(Format.VOTT, source, folder, found, in_order(found), detection=True, notes=notes.all())


def _image(asset: Mapping[str, Any], regions: Sequence[Mapping[str, Any]], faults: list[str]) -> LabelledImage:
    """A region has any number of tags."""
    name, size, boxes = text_of(asset["name"]), mapping(asset.get("size")), list[Box]()
    for number, region in enumerate(regions, 1):
        listed = region.get("tags")
        tags = [tag for one in (listed if isinstance(listed, list) else []) if (tag := text_of(one))]
        box = _around(region)
        if box and tags:
            boxes += [Box(tag, *box) for tag in tags]
        else:
            lacks = f"one of {', '.join(SIDES)}" if tags else "a tag"
            faults.append(f"{name}, region {number}: it lacks {lacks}")
    place = path_in_url(text_of(asset.get("path")))
    return LabelledImage(
        name,
        boxes=tuple(boxes),
        width=number_of(size.get("width")),
        height=number_of(size.get("height")),
        other_names=(place,) if place and place != name else (),
        id=name,
    )


def _around(region: Mapping[str, Any]) -> Xywh | None:
    sides = mapping(region.get("boundingBox"))
    corners = points_of([[one.get("x"), one.get("y")] for one in objects(region.get("points"))])
    return four_of([sides.get(side) for side in SIDES]) or around(corners)
