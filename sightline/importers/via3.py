"""Projects of VIA 3, turned into what version 2 writes for each image."""

from collections.abc import Iterator, Mapping
from typing import Any

from sightline.importers.model import mapping, objects, text_of

PARTS = ("project", "attribute", "file", "metadata", "view")
IMAGE, CHECKBOX = "2", "2"  # the types of a file and of an attribute
POINTS = {"6": "polyline", "7": "polygon", "8": "polygon"}  # 8: a rectangle by four points on its sides
SIDES = {
    "2": ("rect", "x", "y", "width", "height"),
    "3": ("circle", "cx", "cy", "r"),
    "4": ("ellipse", "cx", "cy", "rx", "ry"),
}


def entries(content: object) -> list[dict[str, Any]]:
    """The images of a project; nothing for any other JSON. Views of several files, and times in videos, say nothing."""
    found = mapping(content)
    if not all(isinstance(found.get(part), dict) for part in PARTS):
        return []
    images = dict[str, dict[str, Any]]()
    for view, files in _shown(found):
        if text_of(files.get("type")) == IMAGE:
            name, source = text_of(files.get("fname")), text_of(files.get("src"))
            images[view] = {"filename": name or source, "regions": [], "file_attributes": {}}
    for mark in objects(list(found["metadata"].values())):
        image, attributes = images.get(text_of(mark.get("vid"))), _attributes(found, mapping(mark.get("av")))
        if image is None or mark.get("z"):
            continue
        if mark.get("xy"):
            image["regions"].append({"shape_attributes": _shape(mark["xy"]), "region_attributes": attributes})
        else:
            image["file_attributes"] |= attributes
    return list(images.values())


def _shown(project: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each view of one file, by its id, with the file."""
    for view, about in project["view"].items():
        shown = mapping(about).get("fid_list")
        if isinstance(shown, list) and len(shown) == 1:
            yield str(view), mapping(project["file"].get(text_of(shown[0])))


def _attributes(project: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes by their names; where options were offered, the chosen ones by theirs."""
    named = dict[str, Any]()
    for number, value in values.items():
        about = mapping(project["attribute"].get(number))
        options, text = mapping(about.get("options")), text_of(value)
        chosen = text.split(",") if text_of(about.get("type")) == CHECKBOX else [text]
        texts = [text_of(options.get(one)) or one for one in chosen if one]
        name = text_of(about.get("aname")) or str(number)
        named[name] = dict.fromkeys(texts, True) if len(texts) > 1 else "".join(texts)
    return named


def _shape(xy: object) -> dict[str, Any]:
    listed: list[Any] = list(xy) if isinstance(xy, list) else []
    kind, numbers = text_of(listed[0]) if listed else "", listed[1:]
    if kind in POINTS:
        return {"name": POINTS[kind], "all_points_x": numbers[::2], "all_points_y": numbers[1::2]}
    name, *sides = SIDES.get(kind, ("point",))
    return {"name": name, **dict(zip(sides, numbers, strict=False))}
