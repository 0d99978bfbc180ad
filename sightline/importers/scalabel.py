"""Scalabel's JSON, in which BDD100K comes: the labels of each frame as boxes, outlines, or tags of the whole image."""

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
    number_of,
    objects,
    of_one_kind,
    text_of,
)
from sightline.importers.shapes import OUTLINES, Xywh, around, four_of, points_of
from sightline.plurals import counted

CORNERS = ("x1", "y1", "x2", "y2")
SHAPES = ("box2d", "poly2d", "box3d", "rle", "graph")
LANES = "left out: {count:outline|outlines} of lanes and areas, as other labels are boxes"


def frames(content: object) -> list[dict[str, Any]]:
    """The frames, listed alone or beside a configuration; nothing for any other JSON."""
    found = objects(mapping(content).get("frames", content))
    marks = [label for frame in found for label in objects(frame.get("labels"))]
    ours = any("category" in label for label in marks) and all("name" in frame for frame in found)
    return found if ours else []


def read(file: Path) -> Imported:
    """The file; ImportFault with every label at fault. Where there are boxes, outlines are lanes, and left out."""
    notes, faults, listed = Notes(), list[str](), frames(read_json(file))
    boxed = any("box2d" in label for frame in listed for label in objects(frame.get("labels")))
    images = [_image(frame, notes, faults, boxed=boxed) for frame in listed]
    if faults:
        raise ImportFault(f"{file}: {counted(len(faults), 'label')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{file} lists no frames in Scalabel's form")
    found, detection = of_one_kind(images, notes, "labels of whole images are left out: there are boxes too")
    return Imported(Format.SCALABEL, file, file.parent, found, in_order(found), detection, notes.all())


def _image(frame: dict[str, Any], notes: Notes, faults: list[str], *, boxed: bool) -> LabelledImage:
    name, size = text_of(frame.get("name")), mapping(frame.get("size"))
    labels, boxes = list[str](), list[Box]()
    for number, label in enumerate(objects(frame.get("labels")), 1):
        category, shapes = text_of(label.get("category")), [shape for shape in SHAPES if label.get(shape)]
        if not category:
            faults.append(f"{name}, label {number}: it has no category")
        elif not shapes:
            labels.append(category)
        elif "box2d" not in shapes and boxed:
            notes.count(LANES)
        elif box := _around(label, notes):
            boxes.append(Box(category, *box))
        else:
            faults.append(f"{name}, label {number} ({category}): its {shapes[0]} is no box or outline with all numbers")
    return LabelledImage(
        name,
        tuple(dict.fromkeys(labels)),
        tuple(boxes),
        width=number_of(size.get("width")),
        height=number_of(size.get("height")),
        other_names=_in_video(frame, name),
        id=name,
    )


def _in_video(frame: dict[str, Any], name: str) -> tuple[str, ...]:
    video = text_of(frame.get("videoName")) or text_of(frame.get("video_name"))
    return (f"{video}/{name}",) if video else ()


def _around(label: dict[str, Any], notes: Notes) -> Xywh | None:
    if box := mapping(label.get("box2d")):
        corners = four_of([box.get(corner) for corner in CORNERS])
        return BoxForm.XYXY.to_xywh(*corners) if corners else None
    notes.count(OUTLINES)
    return around(point for part in objects(label.get("poly2d")) for point in points_of(part.get("vertices")))
